// Colours of the page as charts need them, and the layout that charts share. Light or dark is the
// system's choice; both sets of colours are in theme.css.
headlab.theme = (() => {
  const asked = matchMedia("(prefers-color-scheme: dark)");
  let found = new Map();
  asked.addEventListener("change", () => { found = new Map(); headlab.state.mark(["theme"]); });

  const colour = name => {
    if (!found.has(name)) {
      const style = getComputedStyle(document.documentElement);
      found.set(name, style.getPropertyValue(`--${name}`).trim());
    }
    return found.get(name);
  };

  const faint = (name, share) => {
    const [r, g, b] = colour(name).match(/[0-9a-f]{2}/gi).map(each => parseInt(each, 16));
    return `rgba(${r},${g},${b},${share})`;
  };

  const scale = () => [0, 0.08, 0.3, 1].map((share, i) => [share, colour(`cell-${i}`)]);

  const axis = () => ({
    color: colour("soft"), gridcolor: colour("line"), linecolor: colour("line"),
    zerolinecolor: colour("line"), ticklabeloverflow: "allow", automargin: false,
    tickfont: {size: 11}, title: {font: {size: 11}},
  });

  const layout = more => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: "system-ui, sans-serif", size: 12, color: colour("soft")},
    margin: {l: 40, r: 10, t: 6, b: 30},
    hoverlabel: {bgcolor: colour("card"), bordercolor: colour("edge"),
                 font: {color: colour("ink"), size: 12}},
    showlegend: false,
    ...more,
  });

  const STATES = ["never", "retained", "emergent", "pruned", "transient"];
  const MARKS = {retained: "circle", emergent: "triangle-up", pruned: "triangle-down",
                 transient: "diamond"};
  const GLYPHS = {retained: "●", emergent: "▲", pruned: "▼", transient: "◆", never: "·"};
  const config = {displayModeBar: false, doubleClick: "reset"};
  const fine = matchMedia("(pointer: fine)").matches;  // a finger scrolls where a mouse drags
  return {colour, faint, scale, axis, layout, STATES, MARKS, GLYPHS, config, fine};
})();

// The other figures: kept as data until they are seen, and drawn in the page's colours.
headlab.figures = (() => {
  const {theme} = headlab;
  const drawn = new Map();

  // Colours of analysis/reporting/figures/style.py by the page's names for them.
  const NAMES = {"#1f2933": "ink", "#8a929b": "soft", "#c5ccd3": "edge", "#d62f2f": "retained",
                 "#1f6fd6": "emergent", "#8a5a12": "pruned", "#8a63c7": "transient",
                 "#1b7f5c": "score", "#eceff3": "cell-0", black: "ink"};
  const recoloured = value => {
    if (typeof value === "string") return NAMES[value] ? theme.colour(NAMES[value]) : value;
    if (Array.isArray(value)) {  // of numbers, or of a number and a colour, or of others
      return typeof value.at(-1) === "number" ? value : value.map(recoloured);
    }
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, recoloured(each)]));
  };

  // Legends stand beside their curves, and in a narrow page over them.
  const legends = (box, layout) => Object.fromEntries(
    Object.keys(layout).filter(key => /^legend\d*$/.test(key)).map(key => [key, {
      ...layout[key],
      ...(box.clientWidth < 640 ? {x: 1, xanchor: "right", bgcolor: theme.faint("card", 0.7),
                                   font: {size: 10}} : {}),
    }]));

  const draw = (box, content) => {
    const {data, layout} = recoloured(content);
    const axes = Object.keys(layout).filter(key => /^[xy]axis\d*$/.test(key));
    const themed = Object.fromEntries(axes.map(key => {
      const own = layout[key];
      return [key, {...theme.axis(), ...own, fixedrange: own.fixedrange ?? !theme.fine}];
    }));
    const base = theme.layout({});
    Plotly.react(box, data, {...layout, ...themed, ...legends(box, layout), showlegend: undefined,
                             paper_bgcolor: base.paper_bgcolor, plot_bgcolor: base.plot_bgcolor,
                             font: base.font, hoverlabel: base.hoverlabel, autosize: true,
                             ...(theme.fine ? {} : {dragmode: false})}, theme.config);
  };

  const show = box => {
    if (drawn.has(box)) return;
    const content = JSON.parse(box.querySelector("script").textContent);
    drawn.set(box, content);
    box.replaceChildren();
    draw(box, content);
    headlab.fit(box);
    box.before(headlab.el("div", {class: "tools"},
                          headlab.exports.buttons(box, () => box.dataset.title)));
  };

  const make = () => {
    for (const box of document.querySelectorAll(".lazy")) {
      if (!box.closest("details:not([open])")) show(box);
    }
    for (const fold of document.querySelectorAll("details")) {
      fold.addEventListener("toggle", () => {
        if (fold.open) fold.querySelectorAll(".lazy").forEach(show);
      });
    }
    return (_, changed) => {
      if (changed.has("theme")) drawn.forEach((content, box) => draw(box, content));
    };
  };
  return {make};
})();

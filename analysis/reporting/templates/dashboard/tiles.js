// Four numbers, each with its interval, its change since the base and a sparkline.
headlab.tiles = (() => {
  const {el, theme, words} = headlab;
  const COLOURS = {called_emergent: "emergent", called_pruned: "pruned", emergent: "emergent",
                   pruned: "pruned"};

  const spark = (plot, run, names) => {
    if (!run.steps.length || !names.some(name => run.columns[name])) return;
    const found = names.filter(name => run.columns[name]);
    const traces = found.flatMap(name => headlab.curves.band(
      run.steps, run.columns[name], name, COLOURS[name] ?? "ink", {
        mode: run.steps.length > 1 ? "lines" : "markers", hoverinfo: "skip",
        line: {color: theme.colour(COLOURS[name] ?? "ink"), width: 1.75},
      }));
    const [first, last] = [run.steps[0], run.steps.at(-1)];
    const pad = (last - first) * 0.02 || 1;
    Plotly.react(plot, traces, theme.layout({
      margin: {l: 0, r: 0, t: 2, b: 2}, dragmode: false, hovermode: false,
      xaxis: {visible: false, fixedrange: true, range: [first - pad, last + pad]},
      yaxis: {visible: false, fixedrange: true},
    }), {...theme.config, staticPlot: true});
  };

  const make = box => {
    let parts = [], drawn = null;
    const build = run => {
      box.replaceChildren();
      parts = run.judged.tiles.map(tile => {
        const value = el("span", {class: "value"}), interval = el("span", {class: "interval"});
        const change = el("div", {class: "change"}), note = el("div", {class: "note"});
        const plot = el("div", {class: "spark", "aria-hidden": "true"});
        const title = tile.term ? headlab.tip.term(tile.term, tile.title) : tile.title;
        box.append(el("article", {class: "tile"}, el("h2", {}, title),
                      el("div", {class: "number"}, value, " ", interval), change, note,
                      el("div", {class: "sparkbox"}, plot)));
        return {tile, value, interval, change, note, plot};
      });
    };
    const draw = run => {
      for (const part of parts.filter(({plot}) => headlab.isShown(plot))) {
        spark(part.plot, run, part.tile.columns);
        if (!part.plot.layout) continue;
        part.point ??= headlab.curves.cursor(part.plot, 0, 0);
        part.point(headlab.state.get().step);
      }
    };
    new ResizeObserver(headlab.eachFrame(() => { if (drawn) draw(drawn); })).observe(box);
    return ({run, at, step}, changed) => {
      const anew = drawn !== run || changed.has("data");
      if (anew) build(run);
      for (const {tile, value, interval, change, note} of parts) {
        value.textContent = (tile.value[at] ?? "–").replace("-", "−");
        interval.textContent = tile.interval[at] ?? "";
        change.textContent = tile.change[at] ?? "";
        note.textContent = tile.note[at] ?? "";
      }
      const isFirst = drawn === null;
      drawn = run;
      if (!isFirst && (anew || changed.has("theme"))) draw(run);
      for (const {point} of parts) point?.(step);
    };
  };
  return {make};
})();

// The map of layers x heads at one checkpoint: colour is importance, marks are states.
headlab.map = (() => {
  const {el, theme, words, state} = headlab;
  const KINDS = [["retained", false], ["emergent", false], ["emergent", true], ["pruned", false],
                 ["pruned", true], ["transient", false]];

  // What became of a head: "emergent, called".
  const stateOf = (run, at, head) => {
    const name = theme.STATES[run.row("state", at)?.[head] ?? 0];
    return name + (run.row("called", at)?.[head] ? ", called" : "");
  };

  const widest = run => Math.max(1, ...run.graph.layers);

  const cells = (run, at) => {
    const rows = run.graph.layers.map(() => new Array(widest(run)).fill(null));
    const {importance, inclusion} = run.checkpoint(at) ?? {};
    const shown = importance && !Number.isNaN(importance[0]) ? importance : inclusion;
    run.places.forEach(([layer, head], index) => {
      const x = shown ? shown[index] : NaN;
      rows[layer][head] = Number.isNaN(x) ? 0 : x;
    });
    return rows;
  };

  const MARGIN = {l: 38, r: 6, t: 4, b: 32};

  // Sizes of marks fit into a cell of a chart as large as `box`.
  const sizeOf = (box, run) => {
    const cell = Math.min((box.width - MARGIN.l - MARGIN.r) / widest(run),
                          (box.height - MARGIN.t - MARGIN.b) / run.graph.layers.length);
    return Math.max(3, Math.min(17, cell * 0.62));
  };

  // Lines between the cells. plotly draws cells that touch as one small image, which is what lets
  // the map be scrubbed; with gaps it draws each of them.
  const lines = (plot, run) => {
    const {l, r, t, b} = MARGIN, {layers} = run.graph;
    const made = plot.parentElement.querySelector(".cells")
      ?? el("div", {class: "cells", "aria-hidden": "true"});
    made.style.inset = `${t}px ${r}px ${b}px ${l}px`;
    made.style.backgroundSize = `${100 / widest(run)}% ${100 / layers.length}%`;
    plot.parentElement.append(made);
  };

  const traces = (run, at, head, size) => {
    const summed = run.top > 1e-9;  // else shares of resamples are what there is to colour by
    const heat = {
      type: "heatmap", z: cells(run, at), zmin: 0, zmax: summed ? run.top : 1,
      colorscale: theme.scale(), showscale: false, hoverongaps: false, hoverinfo: "none",
    };
    const states = run.row("state", at), called = run.row("called", at);
    const marks = KINDS.map(([name, isCalled]) => {
      const code = theme.STATES.indexOf(name), x = [], y = [];
      states?.forEach((each, index) => {
        if (each !== code || Boolean(called?.[index] && name !== "retained") !== isCalled) return;
        const [layer, place] = run.places[index];
        x.push(place);
        y.push(layer);
      });
      const open = !isCalled && name !== "retained", colour = theme.colour(name);
      return {
        type: "scatter", mode: "markers", x, y, hoverinfo: "skip",
        name: name + (isCalled ? ", called" : ""),
        marker: {
          symbol: theme.MARKS[name], size: name === "retained" ? size * 0.62 : size,
          color: open ? theme.colour("card") : colour,
          line: {width: open ? Math.max(1, size / 7) : 1, color: open ? colour
            : theme.colour("card")},
        },
      };
    });
    return [heat, ...marks, ring(run, head, size), ...linear(run, size)];
  };

  // Heads of linear attention and of state-space models are outlined.
  const linear = (run, size) => (run.graph.linear.length ? [{
    type: "scatter", mode: "markers", hoverinfo: "skip", name: "linear attention",
    x: run.graph.linear.map(head => run.places[head][1]),
    y: run.graph.linear.map(head => run.places[head][0]),
    marker: {symbol: "square-open", size: size * 1.4, color: theme.colour("soft"),
             line: {width: 1, color: theme.colour("soft")}},
  }] : []);

  const ring = (run, head, size) => {
    const place = head === null ? null : run.places[head];
    return {
      type: "scatter", mode: "markers", hoverinfo: "skip", showlegend: false,
      x: place ? [place[1]] : [], y: place ? [place[0]] : [],
      marker: {symbol: "square-open", size: size * 1.75, color: theme.colour("ink"),
               line: {width: 2.5, color: theme.colour("ink")}},
    };
  };

  const layout = run => {
    const tick = many => (many > 40 ? 8 : many > 16 ? 4 : many > 10 ? 2 : 1);
    const axis = (title, many) => ({
      ...theme.axis(), title: {text: title, font: {size: 11}, standoff: 4}, dtick: tick(many),
      tick0: 0, range: [-0.5, many - 0.5], showgrid: false, zeroline: false, fixedrange: true,
    });
    return theme.layout({
      margin: MARGIN, dragmode: false, hovermode: "closest",
      hoverdistance: -1,
      xaxis: axis("head", widest(run)), yaxis: axis("layer", run.graph.layers.length),
    });
  };

  const describe = (run, at, head) => {
    const point = run.checkpoint(at), lines = [];
    if (point) {
      const {importance, importance_low: low, importance_high: high} = point;
      if (words.known(importance[head])) {
        const ends = words.known(low[head])
          ? ` [${words.small(low[head])}, ${words.small(high[head])}]` : "";
        lines.push(`importance ${words.small(importance[head])}${ends}`);
      }
      if (words.known(point.inclusion[head])) {
        const base = run.checkpoint(0)?.inclusion[head];
        lines.push(`inclusion ${words.value(base)} → ${words.value(point.inclusion[head])}`);
      }
    }
    const kind = run.graph.linear.includes(head) ? "linear attention, " : "";
    return [el("b", {}, run.heads[head]), ` ${kind}${stateOf(run, at, head)}`,
            ...lines.map(line => el("div", {}, line))];
  };

  const legend = (box, run, at) => {
    const states = run.row("state", at), called = run.row("called", at);
    const parts = ["emergent", "pruned", "retained", "transient"].map(name => {
      const code = theme.STATES.indexOf(name);
      let many = 0, sure = 0;
      states?.forEach((each, index) => {
        if (each === code) { many += 1; sure += called?.[index] ? 1 : 0; }
      });
      const glyph = el("span", {class: `glyph ${name}`, "aria-hidden": "true"},
                       theme.GLYPHS[name]);
      const isChange = name === "emergent" || name === "pruned";
      return el("span", {class: "key"}, glyph, `${many} `, headlab.tip.term(name),
                isChange && sure ? ` (${sure} called)` : "");
    });
    const summed = run.top > 1e-9;
    parts.push(el("span", {class: "key"}, headlab.tip.term(summed ? "importance" : "inclusion"), "0",
                  el("span", {class: "scale", "aria-hidden": "true"}),
                  summed ? words.small(run.top) : "1"));
    if (run.graph.linear.length) {
      parts.push(el("span", {class: "key"}, el("span", {class: "glyph", "aria-hidden": "true"}, "□"),
                    "linear attention"));
    }
    box.replaceChildren(...parts);
  };

  // Draws into `plot` and keeps it as the state says.
  const make = (plot, box, title) => {
    const index = new Map();
    let drawnFor = null, busy = false, room = plot.getBoundingClientRect();
    new ResizeObserver(() => {
      const {width, height} = plot.getBoundingClientRect();
      if (width === room.width && height === room.height) return;
      room = {width, height};
      if (drawnFor) state.mark(["size"]);
    }).observe(plot);
    const headAt = event => index.get(`${event.points[0].y},${event.points[0].x}`);

    let isSeen = true, isStale = false;  // out of sight it costs nothing
    new IntersectionObserver(entries => {
      isSeen = entries.at(-1).isIntersecting;
      if (isSeen && isStale) state.mark(["size"]);
    }).observe(plot);

    const draw = (shown, changed) => {
      const {run, at, head, step} = shown;
      title.textContent = run.graph ? `Heads at step ${step}` : "Heads";
      isStale = !isSeen;
      if (isStale) return;
      if (!run.graph) {
        if (drawnFor) Plotly.purge(plot);
        plot.replaceChildren(el("p", {class: "empty"}, "No heads are tracked in this run yet."));
        plot.parentElement.querySelector(".cells")?.remove();
        busy = false;
        box.replaceChildren();
        drawnFor = null;
        return;
      }
      if (drawnFor !== run) {
        index.clear();
        run.places.forEach(([layer, place], each) => index.set(`${layer},${place}`, each));
      }
      legend(box, run, at);
      plot.setAttribute("aria-label", `Map of ${run.graph.layers.length} layers by `
        + `${widest(run)} heads at step ${step}. Shift and an arrow key move between heads.`);
      const many = sizeOf(room, run);
      if (drawnFor && changed.size === 1 && changed.has("head")) {
        const {x, y, marker} = ring(run, head, many);
        Plotly.restyle(plot, {x: [x], y: [y], marker: [marker]}, [KINDS.length + 1]);
        return;
      }
      if (!drawnFor) plot.replaceChildren();
      if (drawnFor !== run) lines(plot, run);
      const size = room.width && room.height ? {width: room.width, height: room.height} : {};
      Plotly.react(plot, traces(run, at, head, many), {...layout(run), ...size}, theme.config);
      if (!drawnFor && !busy) {
        busy = true;
        plot.on("plotly_click", event => {
          const found = headAt(event);
          if (found !== undefined) state.set({head: found});
        });
        plot.on("plotly_hover", event => {
          const found = headAt(event), {clientX, clientY} = event.event ?? {};
          if (found === undefined || clientX === undefined) return;
          const now = state.get();
          headlab.tip.show(describe(now.run, now.at, found), clientX, clientY);
        });
        plot.on("plotly_unhover", headlab.tip.hide);
      }
      drawnFor = run;
    };

    // Shift and an arrow: the next head in that direction that is there.
    document.addEventListener("keydown", event => {
      const by = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0],
                  ArrowDown: [-1, 0]}[event.key];
      if (!by || !event.shiftKey || !drawnFor || headlab.isTyping(event)) return;
      event.preventDefault();
      const {run, head} = state.get();
      if (head === null) {
        if (run.heads.length) state.set({head: 0});
        return;
      }
      let [layer, place] = run.places[head];
      for (let tries = 0; tries < 200; tries++) {
        layer += by[0];
        place += by[1];
        if (index.has(`${layer},${place}`)) return void state.set({head: index.get(`${layer},${place}`)});
      }
    });
    return draw;
  };

  return {make, stateOf, traces, lines, layout, describe, widest};
})();

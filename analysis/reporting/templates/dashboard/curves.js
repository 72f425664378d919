// Curves over the checkpoints: heads that came and went, and under them what the training logs.
headlab.curves = (() => {
  const {theme, words, state} = headlab;

  // A line with its interval as a band; what is not known is left out.
  const band = (steps, column, name, colour, more = {}) => {
    const known = steps.map((_, i) => i).filter(
      i => words.known(column.low?.[i]) && words.known(column.high?.[i]));
    const around = known.map(i => steps[i]);
    const ends = [...known.map(i => column.high[i]), ...known.toReversed().map(i => column.low[i])];
    const axes = {xaxis: more.xaxis, yaxis: more.yaxis};
    const area = {
      type: "scatter", mode: "lines", fill: "toself", x: [...around, ...around.toReversed()],
      y: ends, line: {width: 0}, fillcolor: theme.faint(colour, 0.16), hoverinfo: "skip",
      showlegend: false, ...axes,
    };
    const line = {
      type: "scatter", mode: steps.length > 60 ? "lines" : "lines+markers", x: steps,
      y: column.value, name: headlab.plain(name), line: {color: theme.colour(colour), width: 2},
      marker: {size: 5, color: theme.colour(colour)}, connectgaps: true, ...more,
    };
    return known.length ? [area, line] : [line];
  };

  const text = (name, column, i) => headlab.plain(
    `${name} ${words.value(column.value[i], column.form)} `
    + words.interval(column.low?.[i], column.high?.[i], column.form));

  const told = (steps, name, column) => ({
    text: steps.map((_, i) => text(name, column, i)), hovertemplate: "%{text}<extra></extra>",
  });

  // What two resamples of the base give, with nothing changed.
  const byChance = (run, name) => {
    const {chance} = run.columns[name] ?? {};
    if (!chance?.some(words.known)) return [];
    return [{type: "scatter", mode: "lines", x: run.steps, y: chance, name: "by chance",
             line: {color: theme.colour("soft"), width: 1},
             hovertemplate: "by chance %{y:.1f}<extra></extra>"}];
  };

  // Emergent and pruned heads, or one column.
  const upperTraces = (run, choice) => {
    const {steps, columns} = run, found = [];
    if (choice) {
      const column = columns[choice];
      return [...band(steps, column, column.label, "ink", told(steps, column.label, column)),
              ...byChance(run, choice)];
    }
    for (const [name, dash] of [["emergent", "solid"], ["pruned", "dash"]]) {
      const column = columns[name];
      if (!column) continue;
      found.push(...band(steps, column, name, name, {
        line: {color: theme.colour(name), width: 2, dash}, ...told(steps, name, column)}));
      const called = columns[`called_${name}`];
      if (called) {
        found.push({
          type: "scatter", mode: "lines", x: steps, y: called.value, name: `${name}, called`,
          line: {color: theme.colour(name), width: 1.5, dash: "dot"},
          ...told(steps, `${name}, called`, called),
        });
      }
    }
    return [...found, ...byChance(run, "emergent")];
  };

  const signalTraces = run => {
    const found = [], lower = {xaxis: "x2", yaxis: "y2"};
    if (run.signal?.values.length) {
      const name = headlab.plain(run.signal.name);
      found.push({type: "scatter", mode: "lines", x: run.signal.steps, y: run.signal.values, name,
                  line: {color: theme.colour("soft"), width: 1.5}, ...lower,
                  hovertemplate: `${name} %{y:.4g}<extra></extra>`});
    }
    const {score} = run.columns;
    if (score) {
      found.push(...band(run.steps, score, score.label, "score",
                         {...lower, yaxis: run.signal ? "y3" : "y2",
                          ...told(run.steps, score.label, score)}));
    }
    return found;
  };

  const highest = column =>
    Math.max(1e-9, ...[...column.value, ...(column.high ?? [])].filter(words.known));

  const layout = (run, choice, above, below) => {
    const first = run.steps[0] ?? 0;
    const last = Math.max(run.steps.at(-1) ?? 0, run.signal?.steps.at(-1) ?? 0);
    const pad = (last - first) * 0.02 || 1;
    const x = {...theme.axis(), range: [first - pad, last + pad], zeroline: false,
               fixedrange: !theme.fine};
    const y = title => ({...theme.axis(), title: {text: headlab.plain(title), standoff: 6,
                                                  font: {size: 11}}, zeroline: false,
                         fixedrange: !theme.fine, nticks: 5, automargin: false});
    const {columns} = run, {score} = columns;
    return theme.layout({
      margin: {l: 44, r: 44, t: 6, b: 32}, hovermode: "x", dragmode: theme.fine ? "zoom" : false,
      hoverdistance: -1,
      xaxis: {...x, domain: [0, 1], anchor: "y", showticklabels: !below, visible: above,
              ...(below ? {matches: "x2"} : {title: {text: "step", standoff: 4}})},
      yaxis: {...y(choice ? "" : "heads"), tickformat: columns[choice]?.form === "percent" ? ".0%" : "",
              domain: [below ? 0.5 : 0, 1], rangemode: "tozero", visible: above},
      ...(below ? {
        xaxis2: {...x, anchor: "y2", title: {text: "step", standoff: 4, font: {size: 11}}},
        yaxis2: {...y(run.signal?.name ?? score?.label ?? ""), domain: [0, above ? 0.42 : 1],
                 tickformat: !run.signal && score?.form === "percent" ? ".0%" : ""},
        ...(run.signal && score ? {
          yaxis3: {...y(score.label), overlaying: "y2", side: "right", showgrid: false,
                   tickmode: "auto", range: [0, 1.08 * highest(score)],
                   tickformat: score.form === "percent" ? ".0%" : ""},
        } : {}),
      } : {}),
    });
  };

  const key = (colour, dash, text) => headlab.el("span", {class: "key"},
    headlab.el("span", {class: `stroke ${colour} ${dash}`, "aria-hidden": "true"}), text);

  const signalKeys = (run, keys) => {
    if (run.signal) keys.push(key("soft", "solid", run.signal.name));
    if (run.columns.score) keys.push(key("score", "solid", run.columns.score.label));
  };

  const legend = (box, run, choice) => {
    const {columns} = run, {term} = headlab.tip, keys = [], column = columns[choice];
    if (column) {
      keys.push(key("ink", "solid", term(column.term ?? "", column.label)));
      if (column.chance) keys.push(key("soft", "thin", term("by chance")));
      signalKeys(run, keys);
      return void box.replaceChildren(...keys);
    }
    if (columns.emergent) keys.push(key("emergent", "solid", term("emergent")));
    if (columns.pruned) keys.push(key("pruned", "dash", term("pruned")));
    if (columns.called_emergent) keys.push(key("ink", "dot", term("called")));
    if (columns.emergent?.chance) keys.push(key("soft", "thin", term("by chance")));
    signalKeys(run, keys);
    box.replaceChildren(...keys);
  };

  // A line at the step that is shown, over a chart whose left and right margins are known.
  const cursor = (plot, left, right) => {
    const line = headlab.el("div", {class: "cursor", "aria-hidden": "true"});
    plot.parentElement.append(line);
    return step => {
      const axis = (plot.layout?.xaxis2 ?? plot.layout?.xaxis)?.range;
      if (!axis) return;
      const share = (step - axis[0]) / (axis[1] - axis[0]);
      line.hidden = share < 0 || share > 1;
      line.style.left = `calc(${left}px + (100% - ${left + right}px) * ${share})`;
    };
  };

  // Follows clicks: a point of a curve is a checkpoint.
  const clickable = plot => plot.on("plotly_click", event => {
    const {run} = state.get(), x = event.points[0].x;
    if (!run.steps.length) return;
    const near = run.steps.reduce((best, step) =>
      (Math.abs(step - x) < Math.abs(best - x) ? step : best));
    state.set({step: near});
  });

  // Fills the list of columns; the first entry stands for emergent and pruned heads.
  const offer = (list, {columns}) => {
    const chosen = list.value in columns ? list.value : "";
    const option = (value, text) => headlab.el("option", {value}, text);
    list.replaceChildren(option("", "heads that changed"),
                         ...Object.entries(columns).map(([name, {label}]) => option(name, label)));
    list.value = chosen;
    return chosen;
  };

  const make = (plot, box, list) => {
    const point = cursor(plot, 44, 44);
    let drawn = false;
    list.addEventListener("change", () => state.mark(["curve"]));
    return ({run, step}, changed) => {
      if (!drawn || changed.has("curve") || changed.has("run") || changed.has("data") || changed.has("theme")) {
        const below = signalTraces(run);
        const choice = offer(list, run);
        legend(box, run, choice);
        const above = upperTraces(run, choice);
        Plotly.react(plot, [...above, ...below],
                     layout(run, choice, above.length > 0, below.length > 0), theme.config);
        if (!drawn) {
          clickable(plot);
          plot.on("plotly_relayout", () => point(state.get().step));
        }
        drawn = true;
      }
      point(step);
    };
  };

  return {make, band, cursor, clickable};
})();

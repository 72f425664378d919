// The panel of one head: its curve, its states, its edges, its roles, what it attends to.
headlab.panel = (() => {
  const {el, byId, theme, words, state, data} = headlab;
  const MOST_EDGES = 6;

  const section = (title, ...content) => el("section", {}, el("h3", {}, title), ...content);

  const facts = (run, at, head) => {
    const point = run.checkpoint(at);
    if (!point) return el("p", {class: "note"}, "The heads were not measured at this step.");
    const rows = [];
    const add = (term, text) => rows.push(el("dt", {}, headlab.tip.term(term)), el("dd", {}, text));
    const {importance, importance_low: low, importance_high: high} = point;
    const ends = words.known(low[head])
      ? ` [${words.small(low[head])}, ${words.small(high[head])}]` : "";
    add("importance", words.small(importance[head]) + ends);
    const base = run.checkpoint(0)?.inclusion[head];
    add("inclusion", `${words.value(base)} → ${words.value(point.inclusion[head])}`);
    const side = point.margin[head] >= 0 ? "in the circuit" : "outside";
    add("margin", words.known(point.margin[head])
      ? `${words.value(point.margin[head])}, ${side}` : "–");
    add("p", words.small(point.p_value[head]));
    return el("dl", {class: "facts"}, ...rows);
  };

  // Importance and margin over the checkpoints; the marks are the states.
  const curve = (plot, run, head) => {
    const {steps} = run, codes = run.series("state", head);
    const column = {value: run.series("importance", head), low: run.series("importance_low", head),
                    high: run.series("importance_high", head)};
    const names = codes.map(code => theme.STATES[code]), called = run.series("called", head);
    const marker = {
      size: steps.length > 60 ? 6 : 9, symbol: names.map(name => theme.MARKS[name] ?? "circle-open"),
      color: names.map(name => theme.colour(theme.MARKS[name] ? name : "soft")),
      line: {width: 1, color: theme.colour("card")},
    };
    const text = steps.map((_, i) => `step ${steps[i]}: ${names[i]}${called[i] ? ", called" : ""}`
      + `<br>importance ${words.small(column.value[i])}`);
    const margin = run.series("margin", head);
    const x = {...theme.axis(), fixedrange: true, zeroline: false};
    const traces = [
      ...headlab.curves.band(steps, column, "importance", "ink", {
        mode: "lines+markers", marker, text, hovertemplate: "%{text}<extra></extra>",
        line: {color: theme.colour("soft"), width: 1.5}}),
      {type: "scatter", mode: "lines", x: steps, y: margin, xaxis: "x2", yaxis: "y2",
       line: {color: theme.colour("ink"), width: 1.5},
       hovertemplate: "margin %{y:.2f}<extra></extra>"},
    ];
    const pad = (steps.at(-1) - steps[0]) * 0.03 || 1, range = [steps[0] - pad, steps.at(-1) + pad];
    const y = title => ({...theme.axis(), title: {text: title, standoff: 4, font: {size: 11}},
                         fixedrange: true, nticks: 4});
    Plotly.react(plot, traces, theme.layout({
      margin: {l: 60, r: 8, t: 6, b: 32}, hovermode: "x", hoverdistance: -1, dragmode: false,
      xaxis: {...x, range, anchor: "y", showticklabels: false},
      xaxis2: {...x, range, anchor: "y2", title: {text: "step", standoff: 4, font: {size: 11}}},
      yaxis: {...y("importance"), domain: [0.45, 1], rangemode: "tozero"},
      yaxis2: {...y("margin"), domain: [0, 0.36], zeroline: true,
               zerolinecolor: theme.colour("edge"), zerolinewidth: 1.5},
    }), theme.config);
  };

  const nodeName = (run, node) => {
    const head = run.graph.nodes.head[node], name = run.graph.nodes.name[node];
    if (head >= 0) return run.heads[head];
    return name.replace(/^m(\d+)/, "MLP $1");
  };
  const link = (run, node, text) => {
    const head = run.graph.nodes.head[node];
    return head < 0 ? el("span", {}, text)
      : el("button", {class: "link", type: "button", onclick: () => state.set({head})}, text);
  };

  // The strongest edges of a head, in and out, as they are in the checkpoint's circuit.
  const edges = (run, at, head) => {
    const point = run.checkpoint(at);
    if (!point?.edges) return null;
    const {from, to, score} = data.unpacked(point.edges), {nodes, readers} = run.graph;
    const into = [], out = [];
    for (let i = 0; i < score.length; i++) {
      const side = readers.side[to[i]], feeds = readers.feeds[to[i]];
      if (nodes.head[from[i]] === head) out.push({node: feeds[0], all: feeds, side, x: score[i]});
      if (feeds.some(node => nodes.head[node] === head)) into.push({node: from[i], side, x: score[i]});
    }
    const top = Math.max(1e-12, ...[...into, ...out].map(each => Math.abs(each.x)));
    const list = (title, found, arrow) => {
      if (!found.length) return el("p", {class: "note"}, `${title}: none in the circuit`);
      const rows = found.slice(0, MOST_EDGES).map(({node, all, side, x}) => {
        const shared = all?.length > 1 ? ` and ${all.length - 1} more` : "";
        const name = nodeName(run, node) + shared;
        return el("li", {},
          el("span", {class: "who"}, arrow, " ", link(run, node, name), side ? ` ${side}` : ""),
          el("span", {class: "meter"}, el("span", {
            class: x < 0 ? "minus" : "plus", style: `width:${100 * Math.abs(x) / top}%`})),
          el("span", {class: "figure"}, words.small(x)));
      });
      const more = found.length > MOST_EDGES ? ` (${MOST_EDGES} of ${found.length})` : "";
      return el("div", {}, el("h4", {}, title + more), el("ul", {class: "edges"}, ...rows));
    };
    return section("Strongest edges", list("In", into, "←"), list("Out", out, "→"));
  };

  const roles = (run, head) => {
    const found = run.judged.roles;
    if (!found) return null;
    const {value, low, high} = data.unpacked(found), many = run.heads.length;
    const rows = Object.values(found.titles).map((title, i) => {
      const at = i * many + head;
      if (!words.known(value[at])) return null;
      return el("tr", {}, el("th", {scope: "row"}, headlab.tip.term(title)),
                el("td", {}, words.value(value[at])),
                el("td", {class: "interval"}, words.interval(low[at], high[at], "number")));
    }).filter(Boolean);
    return rows.length ? section(`Roles at step ${found.step}`,
                                 el("table", {class: "roles"}, el("tbody", {}, ...rows))) : null;
  };

  let pair = 0;
  const pattern = (run, at, head) => {
    const stored = run.checkpoint(at)?.patterns;
    if (!stored || stored.unseen.includes(head)) return null;
    const text = el("p", {class: "tokens", tabindex: "0", role: "img"});
    const show = which => {
      pair = Math.min(which, stored.weights.length - 1);
      const tokens = run.tokens[pair], many = tokens.length;
      const weights = data.unpack(stored.weights[pair]).subarray(head * many, (head + 1) * many);
      const most = Math.max(1, ...weights);
      const top = tokens.map((_, i) => i).sort((a, b) => weights[b] - weights[a]).slice(0, 3);
      text.setAttribute("aria-label", "Most attention goes to " + top.map(
        i => `“${tokens[i].trim()}” ${Math.round(weights[i] / 2.55)} %`).join(", "));
      text.replaceChildren(...tokens.map((token, i) => el("span", {
        style: `--weight:${(weights[i] / most).toFixed(3)}`,
        title: `${(weights[i] / 255).toFixed(2)} of the attention`,
      }, token)));
      choose.forEach((button, i) => button.setAttribute("aria-pressed", String(i === pair)));
    };
    const choose = stored.weights.map((_, i) => el("button", {
      type: "button", class: "small", "aria-label": `Pair ${i + 1}`, onclick: () => show(i)}, i + 1));
    show(pair);
    return section("Attends to", el("div", {class: "choices"}, "pair ", ...choose), text);
  };

  const command = (run, step, head) => {
    if (!run.ablate?.length) return null;
    const names = {step: String(step), head: run.heads[head]};
    const text = run.ablate.map((part, i) => (i % 2 ? names[part] : part)).join("");
    const copy = el("button", {type: "button", class: "small", onclick: async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "copied";
      setTimeout(() => { copy.textContent = "copy"; }, 1200);
    }}, "copy");
    return section("Take it out", el("div", {class: "command"},
      el("code", {tabindex: "0"}, text), copy));
  };

  const make = () => {
    const panel = byId("panel"), title = byId("panel-title"), chip = byId("panel-state");
    const plot = byId("panel-curve"), body = byId("panel-body"), extra = byId("panel-extra");
    const point = headlab.curves.cursor(plot, 60, 8);
    let bound = false, before = null;
    byId("panel-close").addEventListener("click", () => state.set({head: null}));
    document.addEventListener("keydown", event => {
      if (event.key === "Escape" && !panel.hidden) state.set({head: null});
    });
    return ({run, at, step, head}, changed) => {
      const was = panel.hidden;
      panel.hidden = head === null || !run.graph;
      document.body.classList.toggle("with-panel", !panel.hidden);
      if (panel.hidden) {
        if (!was) before?.focus?.({preventScroll: true});
        return;
      }
      const name = theme.STATES[run.row("state", at)?.[head] ?? 0];
      title.textContent = run.heads[head];
      chip.className = `chip ${name}`;
      chip.textContent = `${theme.GLYPHS[name]} ${name === "never" ? "never in a circuit"
        : headlab.map.stateOf(run, at, head)}`;
      if (was || ["run", "head", "data", "theme"].some(each => changed.has(each))) {
        curve(plot, run, head);
        if (!bound) headlab.curves.clickable(plot);
        bound = true;
      }
      point(step);
      body.replaceChildren(facts(run, at, head));
      extra.replaceChildren(...[pattern(run, at, head), edges(run, at, head), roles(run, head),
                                command(run, step, head)].filter(Boolean));
      if (was) {
        before = document.activeElement;
        if (getComputedStyle(panel).position !== "fixed") panel.scrollIntoView({block: "nearest"});
      }
    };
  };
  return {make};
})();

// The circuit drawn, with what is chosen of it: the strength of edges, what colours mean, a node.
// It follows the page's state, and is drawn once it comes into sight.
headlab.graph = (() => {
  const {el, byId, theme, state, tip, words, circuit} = headlab;
  const MANY = 150;  // edges that are shown at first
  const LOWEST = 1e-3;  // the share of the strongest edge where the slider begins
  const SIDES = {q: "query", k: "key", v: "value", g: "gate", kv: "key and value"};
  const MODES = {sign: "sign", changes: "change since the base"};

  const shareOf = position => (position > 0 ? LOWEST ** (1 - position / 100) : 0);
  const positionOf = share =>
    Math.max(0, Math.ceil(100 * (1 - Math.log(share) / Math.log(LOWEST))));
  const percent = share => `${Number((100 * share).toPrecision(2))} %`;

  const make = () => {
    const box = byId("graph"), strength = byId("graph-strength"), fold = byId("graph-fold");
    const view = box.view = new headlab.network.View(box);
    let isSeen = false, isSet = false, run = null;

    const nameOf = id => view.graph.nodes[id].name;
    const sideOf = ({side}) => (side ? ` (${SIDES[side] ?? side})` : "");

    // What there is to say of a node or an edge that is pointed at.
    const aboutEdge = each => [
      el("b", {}, `${nameOf(each.from)} → ${nameOf(each.to)}${sideOf(each)}`), el("br"),
      `score ${words.small(each.change === "gone" ? NaN : each.score)}`,
      each.change ? `, at the base ${words.small(each.before ?? NaN)}` : "",
    ];
    const aboutNode = id => {
      const node = view.graph.nodes[id], {at} = state.get(), edges = [...view.edges.values()];
      const feeds = each => each === id || view.graph.nodes[each].feeds?.includes(id);
      const into = edges.filter(({to}) => feeds(to)).length;
      const out = edges.filter(({from}) => from === id).length;
      const said = [el("b", {}, node.name), el("br"),
                    `${into} of the edges drawn in`
                      + (node.kind === "shared" ? "" : `, ${out} out`)];
      if (node.head < 0) return said;
      const called = run.row("called", at)?.[node.head] ? ", called" : "";
      return [...said, el("br"), theme.STATES[run.row("state", at)?.[node.head] ?? 0] + called];
    };

    const focus = id => {
      const head = id === null ? null : view.graph.nodes[id].head;
      view.focus = id;
      tip.hide();
      state.set({head: head === null || head < 0 ? null : head});
      if (isSeen) redraw();
    };

    const listen = () => {
      const {network} = view, point = event => [event.clientX, event.clientY];
      const owner = id => Number.parseInt(id);  // of a port: its node
      network.on("hoverNode", ({node, event}) =>
        tip.show(aboutNode(owner(node)), ...point(event)));
      network.on("hoverEdge", ({edge, event}) => {
        if (view.edges.has(edge)) tip.show(aboutEdge(view.edges.get(edge)), ...point(event));
      });
      for (const name of ["blurNode", "blurEdge", "dragStart"]) network.on(name, tip.hide);
      network.on("click", ({nodes: [id]}) => focus(id === undefined ? null : owner(id)));
    };

    const shown = () => {
      const {at} = state.get(), here = run.checkpoint(at), many = view.edges.size;
      const {share, changes} = view.options, left = here?.edges.left_out;
      const own = view.focus === null || !share ? "" : `, and all of ${nameOf(view.focus)}`;
      byId("graph-shown").textContent = !here ? "The heads were not measured at this checkpoint."
        : `${percent(share)} of the strongest${own}: ${many} ${many === 1 ? "edge" : "edges"}`
          + (changes ? ", those of the base that are gone too" : ` of ${here.edges.all}`)
          + (left ? `; the weakest ${left} are not in this page` : "");
      box.setAttribute("aria-label", `The circuit at step ${state.get().step} as a graph of `
        + `${many} edges; the table below has them as text`);
    };

    const table = () => {
      if (!fold.open) return;
      const {changes} = view.options;
      const titles = ["from", "to", "read as", "score",
                      ...(changes ? ["at the base", "change"] : [])];
      const cells = each => [nameOf(each.from), nameOf(each.to), SIDES[each.side] ?? each.side,
        words.small(each.change === "gone" ? NaN : each.score),
        ...(changes ? [words.small(each.before ?? NaN), each.change] : [])];
      const row = (tag, texts) => el("tr", {}, texts.map(text => el(tag, {}, text)));
      const made = el("table", {class: "data"}, el("thead", {}, row("th", titles)),
                      el("tbody", {}, Array.from(view.edges.values(),
                                                 each => row("td", cells(each)))));
      const {step} = state.get();
      byId("graph-table").replaceChildren(
        el("div", {class: "tools"}, el("button", {class: "small", type: "button", onclick: () =>
          headlab.save(`${headlab.fileName(run.label, "edges", `step-${step}`)}.csv`, "text/csv",
                       headlab.tables.csv(made))}, "CSV")),
        el("div", {class: "scroll", tabindex: "0"}, made));
    };

    const redraw = (isMoving = false) => {
      const began = Boolean(view.network), {at} = state.get();
      if (isMoving) view.move(at); else view.draw(at);
      if (!began) listen();
      shown();
      table();
    };

    const take = now => {
      run = now;
      view.setRun(run);
      byId("graph-names").replaceChildren(...view.graph.nodes.filter(
        node => node.kind !== "shared").map(node => el("option", {value: node.name})));
      const last = circuit.edgesOf(run, run.checkpoints.at(-1));
      if (isSet || !last.length) return;
      isSet = true;
      if (last.length > MANY) {
        strength.value = positionOf(Math.abs(last[MANY].score) / view.top);
        view.options.share = shareOf(Number(strength.value));
      }
    };

    const update = (now, changed) => {
      byId("graph-section").hidden = !now.run.graph;
      if (!now.run.graph) return;
      const isOther = now.run !== run;
      if (isOther || changed.has("data")) take(now.run);
      if (changed.has("head") || isOther) {
        if (now.head !== null) view.focus = view.graph.ofHead.get(now.head);
        else if (view.graph.nodes[view.focus]?.kind === "head") view.focus = null;
      }
      if (changed.has("theme")) key(view.options.changes);
      if (!isSeen) return;
      if (isOther || !view.network) view.measure();
      redraw(changed.size === 1 && changed.has("step"));
      if (isOther) view.fit();
    };

    controls(view, {redraw, focus, isReady: () => isSeen && run});
    fold.addEventListener("toggle", () => { if (view.network) table(); });
    new ResizeObserver(headlab.eachFrame(() => {
      if (!view.network || !box.clientWidth) return;
      view.network.setSize("100%", "100%");
      view.measure();
      redraw();
      view.fit();
    })).observe(box);
    new IntersectionObserver(entries => {
      const was = isSeen;
      isSeen = entries.at(-1).isIntersecting;
      if (!isSeen || was || !run) return;
      if (!view.network) view.measure();
      redraw();
    }, {rootMargin: "0px 0px -56px"}).observe(box);
    return update;
  };

  // The slider, what colours mean, the search, the size and the files.
  const controls = (view, {redraw, focus, isReady}) => {
    const strength = byId("graph-strength"), find = byId("graph-find");
    const again = headlab.eachFrame(() => { if (isReady()) redraw(); });
    strength.addEventListener("input", () => {
      view.options.share = shareOf(Number(strength.value));
      again();
    });

    const modes = Object.entries(MODES).map(([mode, text]) => el("button", {
      type: "button", class: "small", onclick: () => choose(mode)}, text));
    const choose = mode => {
      view.options.changes = mode === "changes";
      modes.forEach((each, i) =>
        each.setAttribute("aria-pressed", String(Object.keys(MODES)[i] === mode)));
      key(view.options.changes);
      again();
    };
    byId("graph-colours").append(...modes);
    choose("sign");

    find.addEventListener("input", () => find.setCustomValidity(""));
    byId("graph-finder").addEventListener("submit", event => {
      event.preventDefault();
      if (!view.graph) return;
      const id = view.find(find.value);
      if (id !== undefined) {
        find.blur();  // so that the arrows step through the checkpoints
        return void focus(id);
      }
      find.setCustomValidity("There is no such node.");
      find.reportValidity();
    });

    const sizes = {in: () => view.zoom(1.3), out: () => view.zoom(1 / 1.3), fit: () => view.fit()};
    for (const [name, change] of Object.entries(sizes)) {
      byId(`graph-${name}`).addEventListener("click", () => { change(); again(); });
    }
    byId("graph-exports").append(...["svg", "png"].map(format => el("button", {
      type: "button", class: "small", "aria-label": `Save as ${format.toUpperCase()}`,
      onclick: () => { if (view.network) headlab.drawing.save(view, format); }},
      format.toUpperCase())));
  };

  // What lines mean.
  const key = changes => {
    const line = (name, dashes) => headlab.drawing.sample(theme.colour(name), dashes);
    const entry = (name, dashes, text) => el("span", {class: "key"}, line(name, dashes), text);
    const colours = changes ? [["emergent", "new since the base"], ["pruned", "gone"],
                               ["soft", "in both"]]
      : [["plus", "score above 0"], ["minus", "below 0"]];
    byId("graph-key").replaceChildren(
      ...colours.map(([name, text]) => entry(name, false, text)),
      ...["q", "k", "v"].map(side => entry("soft", headlab.looks.dashesOf(side), SIDES[side])),
      el("span", {}, "width: |score|; marks as in the map; squares: MLPs, small ones: a key and "
        + "value that heads share"));
  };
  return {make};
})();

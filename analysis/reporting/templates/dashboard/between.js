// Two or more runs side by side: a map of each under the one bar of checkpoints, how two of them
// differ, which heads they share, and the numbers of that at their last checkpoints.
headlab.between = (() => {
  const {el, byId, theme, state, data, words} = headlab;
  const IN = ["retained", "emergent"].map(name => theme.STATES.indexOf(name));
  const LETTERS = "abcdefghijklmnopqrstuvwxyz";
  const letter = index => LETTERS[index] ?? `run ${index + 1}`;

  // The checkpoint of each run: the last one that is not after the step that is shown. At the end
  // of the run that is shown all are at their ends.
  const placesOf = shown => {
    const isEnd = shown.at === shown.run.steps.length - 1;
    return data.runs.map(run => {
      if (run === shown.run) return shown.at;
      return isEnd ? run.steps.length - 1 : run.at(shown.step);
    });
  };

  const isIn = (run, at, head) => IN.includes(run.row("state", at)?.[head]);

  // What colours the difference: importances, or shares of resamples where those are no amounts.
  const measureOf = (...points) =>
    (points.every(({importance}) => !Number.isNaN(importance[0])) ? "importance" : "inclusion");

  // Of two runs of one graph: {rows: E by layers, sets: heads by both, a, b}.
  const difference = ([one, at], [two, other]) => {
    const points = [one.checkpoint(at), two.checkpoint(other)];
    if (points.includes(undefined)) return null;
    const measure = measureOf(...points), [a, b] = points.map(each => each[measure]);
    const rows = one.graph.layers.map(many => new Array(many).fill(null));
    const sets = {both: [], a: [], b: []};
    one.places.forEach(([layer, place], head) => {
      const inOne = isIn(one, at, head), inTwo = isIn(two, other, head);
      if (!inOne && !inTwo) return;
      sets[inOne && inTwo ? "both" : inOne ? "a" : "b"].push(head);
      rows[layer][place] = (b[head] - a[head]) / (b[head] + a[head] + 1e-6);
    });
    return {rows, sets, measure};
  };

  const MARKS = {both: "circle", a: "triangle-left", b: "triangle-right"};
  const traces = (run, {rows, sets}, called, size) => {
    const heat = {
      type: "heatmap", z: rows, zmin: -1, zmax: 1, showscale: false,
      ...(run.heads.length < 200 ? {xgap: 1, ygap: 1} : {}),  // slow, as each cell is drawn
      hoverinfo: "none", hoverongaps: false,
      colorscale: [[0, theme.colour("minus")], [0.5, theme.colour("cell-0")],
                   [1, theme.colour("plus")]],
    };
    const marks = Object.entries(MARKS).map(([name, symbol]) => {
      const places = sets[name].map(head => run.places[head]), ink = theme.colour("ink");
      return {
        type: "scatter", mode: "markers", x: places.map(each => each[1]), name,
        y: places.map(each => each[0]), hoverinfo: "skip",
        marker: {symbol, size: name === "both" ? size * 0.4 : size * 0.75,
                 color: sets[name].map(head => (called.has(head) || name === "both" ? ink
                   : theme.colour("card"))),
                 line: {color: ink, width: name === "both" ? 0 : 1.2}},
      };
    });
    return [heat, ...marks];
  };

  // The heads of a list, each of which opens its panel.
  const links = (run, heads) => heads.map(head => el("button", {
    type: "button", class: "link", onclick: () => state.set({head})}, run.heads[head]));

  const table = (titles, rows) => headlab.tables.boxed(el("table", {class: "data"},
    el("thead", {}, el("tr", {}, titles.map(title => el("th", {scope: "col"}, title)))),
    el("tbody", {}, rows.map(row => el("tr", {}, row.map(cell => el("td", {}, cell)))))),
  titles[0]);

  // The numbers of two runs at their last checkpoints.
  const numbers = pair => {
    if (!pair.numbers.length) return [];
    const [one, two] = [data.runs[pair.a], data.runs[pair.b]];
    const known = x => (x === null ? "–" : String(x));
    const group = name => name.replace(/\ba$/, letter(pair.a)).replace(/\bb$/, letter(pair.b));
    const first = table(["at the last checkpoints", "heads", "called", "by chance"],
      pair.numbers.map(({title, term, shown, called, chance}) => [
        term ? headlab.tip.term(term, group(title)) : group(title), shown, known(called),
        chance || "–"]));
    const since = table(["since the base of each", "heads", "called", "which"], pair.since.map(
      each => [`${each.change} in ${group(each.group)}`, each.shown, known(each.called),
               el("span", {}, links(one, each.heads).flatMap(link => [link, " "]))]));
    const alike = new Map(pair.since.map(each => [each.change, each.jaccard]));
    return [
      el("h3", {}, `${letter(pair.a)} at step ${pair.steps[0]}, ${letter(pair.b)} at step `
        + `${pair.steps[1]}`), first,
      ...(pair.since.length ? [since, el("p", {class: "note"}, [...alike].map(
        ([change, jaccard]) => `Jaccard of the ${change} heads: ${jaccard}.`).join(" "))] : []),
    ];
  };

  const make = () => {
    const section = byId("sides-section");
    if (data.runs.length < 2) return () => {};
    section.hidden = false;
    const pairs = data.between ?? [];
    let chosen = 0, isSeen = false, last = null;

    // A figure with a title that changes.
    const figure = (id, label) => {
      const plot = el("div", {class: "plot", id, role: "img", "aria-label": label});
      const title = el("bdi"), caption = el("figcaption", {}, title);
      const made = el("figure", {}, caption, el("div", {class: "plotbox"}, plot));
      caption.append(headlab.exports.buttons(plot, () => title.textContent));
      byId("sides-maps").append(made);
      return {plot, title, made, drawn: false};
    };
    const maps = data.runs.map(
      (run, i) => figure(`sides-${i}`, `Map of the heads of ${run.label}`));
    const apart = pairs.length ? figure("sides-difference", "Map of the differences") : null;

    const draw = (where, shown) => {
      const {plot} = where, {traces: drawn, layout} = shown;
      Plotly.react(plot, drawn, layout, theme.config);
      if (where.drawn) return;
      where.drawn = true;
      headlab.fit(plot);
      plot.on("plotly_click", event => where.click(event.points[0].y, event.points[0].x));
      plot.on("plotly_hover", ({points: [{x, y}], event}) => {
        const said = where.say(y, x);
        if (!said || event?.clientX === undefined) return;
        headlab.tip.show(said, event.clientX, event.clientY);
      });
      plot.on("plotly_unhover", headlab.tip.hide);
    };
    const size = (plot, run) => Math.max(3, Math.min(15, 0.6 * Math.min(
      (plot.clientWidth - 44) / headlab.map.widest(run),
      (plot.clientHeight - 36) / run.graph.layers.length)));
    const headAt = (run, layer, place) =>
      run.places.findIndex(each => each[0] === layer && each[1] === place);

    const drawMap = (where, run, at, head, index, isAnew) => {
      const isLast = at === run.steps.length - 1;
      const step = run.steps.length ? `step ${run.steps[at]}${isLast ? " (its last)" : ""}` : "";
      where.title.replaceChildren(`${letter(index)}: ${step} `,
                                  el("bdi", {class: "name", title: run.label}, run.label));
      if (!run.graph) return void where.plot.replaceChildren(
        el("p", {class: "empty"}, "No heads are tracked in this run yet."));
      where.click = (layer, place) => {
        const found = headAt(run, layer, place);
        if (found >= 0) state.set({run: index, head: found});
      };
      where.say = (layer, place) => {
        const found = headAt(run, layer, place);
        return found < 0 ? null : headlab.map.describe(run, at, found);
      };
      const name = head === null ? null : state.get().run.heads[head].toUpperCase();
      const there = name === null ? null : run.index.get(name) ?? null;
      if (!isAnew && where.at === at && where.head === there) return;
      Object.assign(where, {at, head: there});
      const drawn = headlab.map.traces(run, at, there, size(where.plot, run));
      const tops = data.runs.map(each => each.top);  // colours mean the same in all maps
      if (Math.min(...tops) > 1e-9) drawn[0].zmax = Math.max(...tops);
      headlab.map.lines(where.plot, run);
      draw(where, {traces: drawn, layout: headlab.map.layout(run)});
    };

    let listed = "";
    const lists = (pair, found, one) => {
      const text = JSON.stringify([chosen, found?.sets]);
      if (text === listed) return;
      listed = text;
      const [a, b] = [letter(pair.a), letter(pair.b)];
      const titles = {both: `in ${a} and ${b}`, a: `in ${a} only`, b: `in ${b} only`};
      byId("sides-heads").replaceChildren(...(!found ? [] : Object.entries(titles).flatMap(
        ([name, title]) => [el("dt", {}, `${title} (${found.sets[name].length})`),
                            el("dd", {}, links(one, found.sets[name]))])));
    };

    const drawPair = places => {
      const pair = pairs[chosen];
      if (!pair.alike) return void lists(pair, null);
      const [one, two] = [data.runs[pair.a], data.runs[pair.b]];
      const found = difference([one, places[pair.a]], [two, places[pair.b]]);
      lists(pair, found, one);
      const [a, b] = [letter(pair.a), letter(pair.b)];
      apart.title.textContent = `${a} → ${b}: which heads matter more`;
      apart.plot.hidden = !found;
      if (!found) return;
      const isLast = [[one, pair.a], [two, pair.b]].every(
        ([run, place]) => places[place] === run.steps.length - 1);
      apart.click = (layer, place) => {
        const head = headAt(one, layer, place);
        if (head >= 0) state.set({head});
      };
      apart.say = (layer, place) => {
        const head = headAt(one, layer, place);
        if (head < 0) return null;
        const set = Object.keys(found.sets).find(name => found.sets[name].includes(head));
        const of = [[one, pair.a], [two, pair.b]].map(([run, index]) => {
          const x = run.checkpoint(places[index])[found.measure][head];
          return el("div", {}, `${found.measure} in ${letter(index)}: ${words.small(x)}`);
        });
        const where = {both: "in both", a: `in ${a} only`, b: `in ${b} only`}[set];
        return [el("b", {}, one.heads[head]), ` ${where ?? "in neither circuit"}`, ...of,
                ...(set ? [el("div", {}, `E ${words.fixed(found.rows[layer][place], 2)}`)] : [])];
      };
      draw(apart, {traces: traces(one, found, new Set(isLast ? pair.called : []),
                                  size(apart.plot, one)), layout: headlab.map.layout(one)});
    };

    const legend = pair => {
      const [a, b] = [letter(pair.a), letter(pair.b)];
      const entry = (glyph, text) => el("span", {class: "key"}, el("span", {
        class: "glyph", "aria-hidden": "true"}, glyph), text);
      const box = name => headlab.drawing.sample(theme.colour(name), false, 8);
      byId("sides-key").replaceChildren(
        el("span", {class: "key"}, box("minus"), `matters more in ${a}`),
        el("span", {class: "key"}, box("plus"), `more in ${b}`), entry("●", "in both circuits"),
        entry("◁", `in ${a} only`), entry("▷", `in ${b} only`),
        el("span", {}, "filled: called, at the last checkpoints"));
      const care = byId("sides-care");
      care.hidden = !pair.differ.length;
      care.textContent = `Take care: ${a} and ${b} differ in ${pair.differ.join(", ")}, so their `
        + "heads do not answer the same question.";
      byId("sides-numbers").replaceChildren(...numbers(pair));
    };

    const choices = pairs.map((pair, i) => el("button", {type: "button", class: "small",
      onclick: () => { choose(i); update(last, new Set(["pair"])); }},
      `${letter(pair.a)} → ${letter(pair.b)}`));
    const choose = i => {
      chosen = i;
      apart.made.hidden = !pairs[i].alike;
      choices.forEach((each, place) => each.setAttribute("aria-pressed", String(place === i)));
      legend(pairs[i]);
    };
    if (pairs.length > 1) byId("sides-pairs").append(...choices);
    if (pairs.length) choose(0);

    const update = (shown, changed) => {
      last = shown;
      if (!isSeen) return;
      const places = placesOf(shown);
      const isAnew = ["theme", "data", "size"].some(name => changed.has(name));
      maps.forEach((where, i) => drawMap(where, data.runs[i], places[i], shown.head, i, isAnew));
      if (!apart) return;
      if (changed.has("theme")) legend(pairs[chosen]);
      drawPair(places);
    };
    new IntersectionObserver(entries => {
      const was = isSeen;
      isSeen = entries.at(-1).isIntersecting;
      if (isSeen && !was && last) update(state.get(), new Set(["size"]));
    }, {rootMargin: "0px 0px -56px"}).observe(byId("sides-maps"));
    return update;
  };
  return {make};
})();

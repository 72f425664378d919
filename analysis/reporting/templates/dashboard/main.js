// Puts the views together: each is drawn from the state, and again when that changes.
headlab.start = () => {
  const {byId, state, data} = headlab;

  const tabs = () => {
    const box = byId("runs");
    if (data.runs.length < 2) return () => {};
    const made = data.runs.map((run, index) => headlab.el("button", {
      type: "button", onclick: () => state.set({run: index})}, run.label));
    box.append(...made);
    return ({runIndex}) => made.forEach((button, index) =>
      button.setAttribute("aria-pressed", String(index === runIndex)));
  };

  const words = () => {
    const verdict = byId("verdict"), status = byId("status");
    const sections = document.querySelectorAll("[data-run]");
    return ({run, runIndex}) => {
      verdict.textContent = run.judged.verdict;
      status.textContent = run.state ?? "";
      status.hidden = !run.state;
      status.dataset.state = run.state ?? "";
      for (const each of sections) each.hidden = Number(each.dataset.run) !== runIndex;
    };
  };

  const finder = () => {
    const input = byId("find");
    input.addEventListener("input", () => input.setCustomValidity(""));
    byId("finder").addEventListener("submit", event => {
      event.preventDefault();
      const {run} = state.get(), text = input.value.trim().toUpperCase().replace(/^A(\d+)\.H/, "L$1H");
      const head = run.index.get(text);
      if (head !== undefined) {
        input.blur();  // so that the arrows step through the checkpoints
        return void state.set({head});
      }
      input.setCustomValidity(run.heads.length
        ? `There is no such head; there are ${run.heads[0]} to ${run.heads.at(-1)}.`
        : "No heads are tracked in this run yet.");
      input.reportValidity();
    });
  };

  const everything = new Set(["run", "step", "head", "data", "theme"]);
  const begin = view => {
    view(state.get(), everything);
    state.listen(view);
  };
  begin(tabs());
  begin(words());
  begin(headlab.bar.make());
  begin(headlab.tiles.make(byId("tiles")));
  begin(headlab.map.make(byId("map"), byId("map-key"), byId("map-title")));
  performance.mark("headlab-first-picture");
  finder();
  headlab.later(() => {
    begin(headlab.curves.make(byId("curves"), byId("curves-key"), byId("curves-of")));
    begin(headlab.panel.make());
    begin(headlab.graph.make());
    begin(headlab.between.make());
    begin(headlab.figures.make());
    headlab.tables.make();
    headlab.exports.make();
    headlab.live();
    ["curves", "panel-curve"].map(byId).forEach(headlab.fit);
    document.documentElement.dataset.ready = "yes";
  });
};
headlab.start();

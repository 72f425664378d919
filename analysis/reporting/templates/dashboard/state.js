// What is being looked at: run, step and head. It is in the address, so that a view can be sent.
headlab.state = (() => {
  const {runs} = headlab.data;
  const now = {run: 0, step: 0, head: null};  // step: Infinity follows the last checkpoint
  const listeners = [];
  let changed = new Set();

  const read = hash => {
    const said = new URLSearchParams(hash.slice(1));
    const run = Number(said.get("run") ?? 0), step = said.get("step");
    now.run = runs[run] ? run : 0;
    now.step = step === null || !Number.isFinite(Number(step)) ? Infinity : Number(step);
    const head = said.get("head");
    now.head = head === null ? null : (runs[now.run].index.get(head.toUpperCase()) ?? null);
  };

  const address = () => {
    const parts = [];
    if (runs.length > 1) parts.push(`run=${now.run}`);
    if (now.step !== Infinity) parts.push(`step=${shown().step}`);
    if (now.head !== null) parts.push(`head=${runs[now.run].heads[now.head]}`);
    return "#" + parts.join("&");
  };
  let writing = null;
  const write = () => {  // browsers count how often an address is written, so not at each frame
    clearTimeout(writing);
    writing = setTimeout(() => {
      if (location.hash !== address()) history.replaceState(null, "", address());
    }, 200);
  };

  // The run that is shown, the index of its checkpoint and its step.
  const shown = () => {
    const run = runs[now.run], at = run.at(now.step);
    return {run, at, step: run.steps[at] ?? 0, head: now.head, runIndex: now.run};
  };

  const tell = headlab.eachFrame(() => {
    const what = changed;
    changed = new Set();
    for (const listener of listeners) listener(shown(), what);
  });
  const mark = names => {
    for (const name of names) changed.add(name);
    tell();
  };

  const set = change => {
    const names = Object.keys(change).filter(name => now[name] !== change[name]);
    if (!names.length) return;
    const name = now.head === null ? null : runs[now.run].heads[now.head];
    Object.assign(now, change);
    if (names.includes("run") && name !== null && !("head" in change)) {
      now.head = runs[now.run].index.get(name.toUpperCase()) ?? null;  // the same head there
    }
    write();
    mark(names);
  };

  // By checkpoints: +1 is the next one. At an end it stays.
  const move = by => {
    const {run, at} = shown();
    goTo(at + by);
  };
  const goTo = at => {
    const {steps} = shown().run;
    if (steps.length) set({step: steps[Math.max(0, Math.min(steps.length - 1, at))]});
  };

  read(location.hash);
  addEventListener("hashchange", event => {  // several may be on their way, each with its own
    read(new URL(event.newURL).hash);
    mark(["run", "step", "head"]);
  });
  return {
    get: shown, set, move, goTo,
    // call(shown, changed): changed holds some of run, step, head, data, theme
    listen: call => listeners.push(call),
    mark,
  };
})();

// The bar of checkpoints: play, step, drag; and the keys that do the same.
headlab.isTyping = event => Boolean(event.target.matches?.(
  "input:not([type=range]), textarea, select, [contenteditable]"));

headlab.bar = (() => {
  const {byId, state} = headlab;

  const make = () => {
    const range = byId("range"), play = byId("play"), label = byId("at"), ends = byId("ends");
    let timer = null;

    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.setAttribute("aria-label", "Play");
      play.dataset.on = "";
    };
    const start = () => {
      const {run, at} = state.get(), many = run.steps.length;
      if (many < 2) return;
      if (at === many - 1) state.goTo(0);
      play.setAttribute("aria-label", "Pause");
      play.dataset.on = "yes";
      timer = setInterval(() => {
        const now = state.get();
        if (now.at >= now.run.steps.length - 1) stop(); else state.move(1);
      }, Math.max(60, Math.min(700, 9000 / many)));
    };
    const toggle = () => (timer === null ? start() : stop());

    const KEYS = {
      ArrowLeft: () => state.move(-1), ArrowRight: () => state.move(1), Home: () => state.goTo(0),
      End: () => state.goTo(Infinity), PageUp: null, PageDown: null,
    };
    document.addEventListener("keydown", event => {
      const held = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
      if (held || headlab.isTyping(event)) return;
      const onControl = event.target.closest?.("button, a, summary, .scroll, [role=option]");
      if (event.key === " " && !onControl) {
        event.preventDefault();
        toggle();
      } else if (KEYS[event.key] && !event.target.closest?.(".scroll")) {
        event.preventDefault();
        KEYS[event.key]();
      }
    });
    range.addEventListener("input", () => state.goTo(Number(range.value)));
    play.addEventListener("click", toggle);
    byId("back").addEventListener("click", () => state.move(-1));
    byId("next").addEventListener("click", () => state.move(1));

    return ({run, at, step}) => {
      const last = Math.max(0, run.steps.length - 1);
      range.max = last;
      range.value = at;
      range.style.setProperty("--share", last ? at / last : 1);
      range.setAttribute("aria-valuetext", `step ${step}, checkpoint ${at + 1} of ${last + 1}`);
      label.textContent = `step ${step}`;
      ends.textContent = `of ${run.steps[last] ?? 0}`;
      byId("back").disabled = at === 0;
      byId("next").disabled = at === last;
    };
  };
  return {make};
})();

// One box that explains what is pointed at: terms, and what charts say of a point. It comes with
// the mouse, the keyboard's focus or a tap, and goes with Escape.
headlab.tip = (() => {
  const {el} = headlab;
  const box = el("div", {class: "tip", role: "tooltip", id: "tip", hidden: true});
  document.body.append(box);
  let owner = null;

  const place = (x, y, gap = 14) => {
    const {width, height} = box.getBoundingClientRect();
    const left = Math.max(8, Math.min(x + gap, innerWidth - width - 8));
    const below = y + gap + height < innerHeight;
    box.style.left = `${left}px`;
    box.style.top = `${Math.max(8, below ? y + gap : y - gap - height)}px`;
  };
  const show = (content, x, y) => {
    box.replaceChildren(...[content].flat());
    box.hidden = false;
    place(x, y);
  };
  const hide = () => {
    box.hidden = true;
    owner?.removeAttribute("aria-describedby");
    owner = null;
  };

  const explain = target => {
    const text = headlab.data.terms[target.dataset.term];
    if (!text) return;
    hide();
    owner = target;
    owner.setAttribute("aria-describedby", "tip");
    const {left, bottom} = target.getBoundingClientRect();
    show(text, left - 14, bottom - 6);
  };
  const termOf = event => event.target.closest?.("[data-term]");
  document.addEventListener("mouseover", event => { const t = termOf(event); if (t) explain(t); });
  document.addEventListener("mouseout", event => { if (owner && termOf(event) === owner) hide(); });
  document.addEventListener("focusin", event => { const t = termOf(event); if (t) explain(t); });
  document.addEventListener("focusout", event => { if (termOf(event) === owner) hide(); });
  document.addEventListener("click", event => {
    const target = termOf(event);
    if (target) explain(target); else if (owner) hide();
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", hide, {passive: true, capture: true});

  // A word that explains itself, where there are words for it.
  const term = (name, text = name) => (headlab.data.terms[name]
    ? el("button", {class: "term", type: "button", "data-term": name}, text)
    : el("span", {}, text));
  return {show, hide, term};
})();

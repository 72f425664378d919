// Elements made of text: nothing that comes from a file is ever read as markup.
headlab.el = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter(each => each !== null && each !== undefined));
  return made;
};

headlab.byId = id => document.getElementById(id);

// Text for plotly, which reads tags in what it draws.
headlab.plain = text =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// Calls once for many calls of a frame.
headlab.eachFrame = call => {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; call(); });
  };
};

// Charts follow the size of their boxes; what is not shown has none.
headlab.isShown = plot => plot.clientWidth > 0 && plot.clientHeight > 0;
headlab.fit = (() => {
  const watch = new ResizeObserver(found => {
    for (const {target} of found) {
      if (target.classList.contains("js-plotly-plot") && headlab.isShown(target)) {
        Plotly.Plots.resize(target);
      }
    }
  });
  return plot => watch.observe(plot);
})();

// When the browser has nothing better to do; soon in any case.
headlab.later = call =>
  "requestIdleCallback" in window ? requestIdleCallback(call, {timeout: 300}) : setTimeout(call, 1);

// A file of the reader's own making.
headlab.save = (name, kind, text) => {
  const address = URL.createObjectURL(new Blob([text], {type: kind}));
  headlab.el("a", {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
};

headlab.fileName = (...parts) =>
  parts.join("-").replace(/[^A-Za-z0-9.-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 100);

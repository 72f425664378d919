// A page that a server shows (headlab watch): it is sent what is new of its run, and draws that.
headlab.live = () => {
  const {byId, data, state} = headlab, {live} = byId("data").dataset;
  if (!live) return;
  const [run] = data.runs, status = byId("status");
  document.querySelector(".top").append(headlab.el("a", {href: "/", class: "link"}, "All runs"));
  const source = new EventSource(live);
  const below = document.querySelector("[data-run]");
  let old = null;  // says that what is below the first screen is of an earlier checkpoint

  const isOld = () => {
    if (old || !below) return;
    old = headlab.el("p", {class: "note", role: "status"},
      `Below, all is as at step ${run.steps.at(-1)}. `,
      headlab.el("button", {type: "button", class: "link", onclick: () => location.reload()},
        "Bring it up to date"));
    below.prepend(old);
  };

  source.addEventListener("run", event => {
    const news = JSON.parse(event.data);
    if (!run.graph && news.graph) return void location.reload();
    if (news.checkpoints?.length) isOld();
    run.take(news);
    state.mark(["data"]);
  });
  source.addEventListener("problem", event => {
    status.hidden = false;
    status.textContent = JSON.parse(event.data).why;
  });
  source.onerror = () => {
    status.hidden = false;
    status.textContent = "the server does not answer";
  };
};

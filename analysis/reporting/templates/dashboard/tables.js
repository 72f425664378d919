// Tables: sorted by their titles, searched, saved as CSV; names of heads open their panel.
headlab.tables = (() => {
  const {el, state} = headlab;

  const csvCell = text => {
    const safe = /^[=@]/.test(text) ? `'${text}` : text;  // no formula of a spreadsheet
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csv = table => Array.from(table.rows, row =>
    Array.from(row.cells, cell => csvCell(cell.textContent.trim())).join(",")).join("\r\n") + "\r\n";

  const saveButton = (table, name) => el("button", {
    type: "button", class: "small", "aria-label": `Save ${name} as CSV`,
    onclick: () => headlab.save(`${headlab.fileName(name)}.csv`, "text/csv", csv(table)),
  }, "CSV");

  // A table that was made here, in its box.
  const boxed = (table, name) => el("div", {class: "tablebox"},
    el("div", {class: "tools"}, saveButton(table, name)),
    el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": name}, table));

  const search = (box, table) => box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(" ");
    for (const row of table.tBodies[0].rows) {
      const text = Array.from(row.cells, cell => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });

  const order = (x, y) =>
    parseFloat(x) - parseFloat(y) || x.localeCompare(y, "en", {numeric: true});
  const sortable = table => {
    const titles = Array.from(table.tHead.rows[0].cells);
    for (const title of titles) {
      const button = el("button", {type: "button", class: "sort"}, title.textContent);
      title.replaceChildren(button);
      button.addEventListener("click", () => {
        const sign = title.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const each of titles) each.removeAttribute("aria-sort");
        title.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const key = row => row.cells[title.cellIndex].textContent, body = table.tBodies[0];
        body.append(...Array.from(body.rows).sort((a, b) => sign * order(key(a), key(b))));
      });
    }
  };

  const headLinks = (table, runIndex) => {
    const {index} = headlab.data.runs[runIndex];
    for (const row of table.tBodies[0].rows) {
      const cell = row.cells[0], head = index.get(cell.textContent.trim().toUpperCase());
      if (head === undefined) continue;
      cell.replaceChildren(el("button", {
        type: "button", class: "link", onclick: () => state.set({run: runIndex, head}),
      }, cell.textContent.trim()));
    }
  };

  const ready = new WeakSet();
  const prepare = table => {
    if (ready.has(table)) return;
    ready.add(table);
    if (!table.id) return;
    sortable(table);
    const run = /^run(\d+)-heads$/.exec(table.id);
    if (run) headLinks(table, Number(run[1]));
  };

  const make = () => {
    for (const table of document.querySelectorAll(".tablebox[data-name] table")) {
      const box = table.closest(".tablebox"), name = box.dataset.name;
      box.querySelector(".tools").append(saveButton(table, name));
      const input = box.querySelector("input[type=search]");
      if (input) search(input, table);
      const fold = table.closest("details");
      if (!fold || fold.open) prepare(table);
      else fold.addEventListener("toggle", () => prepare(table), {once: true});
    }
  };
  return {make, csv, boxed};
})();

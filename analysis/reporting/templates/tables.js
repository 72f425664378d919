for (const box of document.querySelectorAll("input[data-table]")) {
  const table = document.getElementById(box.dataset.table), body = table.tBodies[0];
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(" ");
    for (const row of body.rows) {
      const text = Array.from(row.cells, cell => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
  for (const title of table.tHead.rows[0].cells) {
    title.setAttribute("role", "button");
    let sign = -1;
    title.addEventListener("click", () => {
      sign = -sign;
      const key = row => row.cells[title.cellIndex].textContent;
      const order = (x, y) =>
        parseFloat(x) - parseFloat(y) || x.localeCompare(y, "en", {numeric: true});
      body.append(...Array.from(body.rows).sort((a, b) => sign * order(key(a), key(b))));
    });
  }
}

"""Style, script and tables that the pages share."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fbfbf9;
       max-width: 1240px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; } h3 { margin: 1.6rem 0 0; }
table { border-collapse: collapse; background: #fff; font-variant-numeric: tabular-nums;
        font-size: 13px; }
th, td { border: 1px solid #e2e2dd; padding: .2rem .6rem; text-align: right; }
th { background: #f2f2ee; position: sticky; top: 0; } .scroll { max-height: 32rem; overflow: auto; }
th[role] { cursor: pointer; } td, th { white-space: nowrap; }
pre { background: #fff; border: 1px solid #e2e2dd; padding: .8rem; overflow: auto; }
input { font: inherit; width: 20rem; margin: .4rem 0; padding: .2rem .5rem; }
.note { color: #5b6570; font-size: .88rem; } summary { cursor: pointer; }
"""

SCRIPT = """
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
"""


def html_table(heading: Sequence[str], lines: Sequence[Sequence[str]], name: str = "") -> str:
    """An HTML table of plain text; with a name it is sorted by clicks and has a search box."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    box = f'<input type="search" data-table="{name}" placeholder="search: L3H2, emergent, ...">'
    return (
        f'{box if name else ""}<div class="scroll"><table{f" id={name}" if name else ""}>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )

"""Pages as files: Jinja2 templates (analysis/reporting/templates) in which all text is escaped.

A page needs no network, because plotly.js is written into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """A table of plain text; with a name, its id, it is sorted by clicks and has a search box."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    name: str = ""


def chart(figure: dict[str, Any], name: str, title: str) -> Markup:
    """A figure of plain content as data in an element with an id, drawn once it is seen.

    The page gives it the colours of its theme (templates/dashboard/figures.js), so plotly's own
    are left out. Text from files in it must be escaped, as plotly reads tags.

    title: of the figure when it is saved; any text.
    """
    from plotly.io.json import to_json_plotly

    layout = {key: value for key, value in figure["layout"].items() if key != "template"}
    content = {"data": figure["data"], "layout": layout}
    data = Markup(to_json_plotly(content).replace("<", "\\u003c"))
    kept = Markup('<script type="application/json">{}</script>').format(data)
    return Markup('<div class="lazy" id="{}" data-title="{}">{}</div>').format(name, title, kept)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page_text(template: str, charts: bool = True, **values: Any) -> str:
    """A page. charts: whether plotly.js is written into it, as `plotly`."""
    if charts:
        from plotly.offline import get_plotlyjs

        values["plotly"] = Markup(get_plotlyjs())
    return _environment().get_template(template).render(**values)


def write_page(out: Path, template: str, **values: Any) -> Path:
    """Write a page with charts, whole or not at all; the path it was written to."""
    from analysis.files import atomic_write

    with atomic_write(out) as draft:
        draft.write_text(page_text(template, **values), encoding="utf-8")
    return out

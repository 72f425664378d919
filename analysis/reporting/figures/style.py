"""Colours, dashes and marks that mean the same in every chart, and the layout that all share.

Charts are plain values, `Content`: plotly's Figure checks and copies every value that it is given,
which took 0.15 s of each report, and a report is written at each checkpoint. `Figure(content)` is
the same for a notebook, and checks it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

Content = dict[str, Any]  # what plotly draws: {"data": traces, "layout": {...}}

RED, BLUE, BROWN, INK, GREY = "#d62f2f", "#1f6fd6", "#8a5a12", "#1f2933", "#8a929b"
PURPLE, GREEN, PALE, GROUND = "#8a63c7", "#1b7f5c", "#c5ccd3", "#eceff3"
COLOURS = {
    "in_circuit": INK,
    "retained": RED,
    "emergent": BLUE,
    "pruned": BROWN,
    "transient": PURPLE,
    "excess turnover": INK,
    "Jaccard": GREEN,
    "weighted overlap": PURPLE,
    "held-out": GREEN,
    "faithfulness": GREEN,
}
DASHES = {"retained": "dash", "weighted overlap": "dash"}
MARKS = {
    "emergent": ("star-open", BLUE),
    "emergent, called": ("star", BLUE),
    "retained": ("circle", RED),
    "pruned": ("x-thin", BROWN),
    "pruned, called": ("x", BROWN),
    "transient": ("diamond-open", PURPLE),
}


@cache
def _template() -> dict[str, Any]:
    from plotly.io import templates

    return dict(templates["plotly_white"].to_plotly_json())


def finish(traces: list[dict[str, Any]], height: int, **layout: Any) -> Content:
    """A chart of these traces, with the layout that all charts share."""
    margin = {"l": 70, "r": 10, "t": 10, "b": 40}
    return {
        "data": traces,
        "layout": {"template": _template(), "height": height, "margin": margin, **layout},
    }

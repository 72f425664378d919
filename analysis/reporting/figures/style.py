"""Colours, dashes and marks that mean the same in every chart."""

from __future__ import annotations

from typing import Any

from plotly.graph_objects import Figure

RED, BLUE, BROWN, INK, GREY = "#d62f2f", "#1f6fd6", "#8a5a12", "#1f2933", "#8a929b"
PURPLE, GREEN, PALE = "#8a63c7", "#1b7f5c", "#c5ccd3"
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


def finish(figure: Figure, height: int, **layout: Any) -> Figure:
    """The layout that all charts share."""
    margin = {"l": 70, "r": 10, "t": 10, "b": 40}
    return figure.update_layout(
        template="plotly_white", height=height, **{"margin": margin, **layout}
    )

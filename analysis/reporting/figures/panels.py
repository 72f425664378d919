"""Panels under one another over one axis of steps, and the curves in them, in plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.intervals import Estimate
from analysis.reporting.figures.style import COLOURS, DASHES, GREY, Content, finish
from analysis.reporting.text import has_interval


@dataclass
class Stack:
    """Panels that are being drawn: traces, and what is said of each panel's own axis.

    Rows count from 1, the topmost.
    """

    traces: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[int, dict[str, Any]] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)


Draw = Callable[[Stack, int], None]  # draws a panel at a row


def suffix(number: int) -> str:
    """What plotly puts after the name of an axis or a legend; nothing for the first."""
    return str(number) if number > 1 else ""


def level_line(y: float, row: int) -> dict[str, Any]:
    """A thin line at a level, across the panel at a row."""
    at = {"xref": f"x{suffix(row)} domain", "yref": f"y{suffix(row)}"}
    ends = {"x0": 0, "x1": 1, "y0": y, "y1": y}
    return {"type": "line", "line": {"color": GREY, "width": 1}, **ends, **at}


def stack(panels: Sequence[Draw], height: int) -> Content:
    """Panels over one axis of steps, each with a legend of its own beside it."""
    found, many = Stack(), len(panels)
    gap = 0.12 / many
    tall = (1 - gap * (many - 1)) / many
    layout: dict[str, Any] = {}
    for row, draw in enumerate(panels, start=1):
        draw(found, row)
        x, y, bottom = f"x{suffix(row)}", f"y{suffix(row)}", (many - row) * (tall + gap)
        last = {"title": {"text": "step"}}
        shared = {"matches": f"x{suffix(many)}", "showticklabels": False}
        top = min(1.0, bottom + tall)
        of_steps = {"anchor": y, "domain": [0, 1], **(last if row == many else shared)}
        own = {"anchor": x, "domain": [bottom, top], **found.axes[row]}
        place = {"y": top, "yanchor": "top", "x": 1.01, "tracegroupgap": 0}
        layout |= {f"xaxis{suffix(row)}": of_steps, f"yaxis{suffix(row)}": own}
        layout[f"legend{suffix(row)}"] = place
    layout |= {"shapes": found.lines, "hovermode": "x unified"}
    return finish(found.traces, height * many + 60, **layout)


def curve(
    figure: Stack,
    row: int,
    steps: Sequence[int],
    values: Sequence[Estimate],
    name: str,
    digits: int = 2,
) -> None:
    """A line with its interval, if there is one, as a band; what is undefined is left out."""
    known = [(x, v) for x, v in zip(steps, values, strict=True) if math.isfinite(v.value)]
    xs, ends = [x for x, _ in known], [(v.low, v.high) for _, v in known]
    colour, group = COLOURS.get(name, COLOURS["held-out"]), {"legendgroup": name}
    certain = [(x, v) for x, v in known if has_interval(v)]
    around = [x for x, _ in certain]
    band = [v.high for _, v in certain] + [v.low for _, v in reversed(certain)]
    plain(
        figure,
        row,
        around + around[::-1],
        band,
        name,
        **group,
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )
    shown = f"%{{y:.{digits}f}}"
    if len(certain) == len(known):
        shown += f" [%{{customdata[0]:.{digits}f}}, %{{customdata[1]:.{digits}f}}]"
    plain(
        figure,
        row,
        xs,
        [v.value for _, v in known],
        name.replace("_", " "),
        **group,
        mode="lines+markers",
        marker={"size": 5},
        customdata=ends,
        hovertemplate=shown,
        line={"color": colour, "dash": DASHES.get(name, "solid")},
    )


def panel(
    title: str,
    steps: Sequence[int],
    curves: Mapping[str, Sequence[Estimate]],
    level: float | None = None,
    **axis: Any,
) -> Draw:
    """Curves by name, with a thin line at a level to compare them with."""

    def draw(figure: Stack, row: int) -> None:
        for name, values in curves.items():
            curve(figure, row, steps, values, name)
        if level is not None:
            figure.lines.append(level_line(level, row))
        figure.axes[row] = {"title": {"text": title}, **axis}

    return draw


def plain(
    figure: Stack, row: int, xs: Sequence[float], ys: Sequence[float], name: str, **how: Any
) -> None:
    """A line without an interval."""
    axes = {
        "xaxis": f"x{suffix(row)}",
        "yaxis": f"y{suffix(row)}",
        "legend": f"legend{suffix(row)}",
    }
    line = {"type": "scatter", "x": list(xs), "y": list(ys), "name": name, "mode": "lines"}
    figure.traces.append({**line, **axes, **how})

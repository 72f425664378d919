"""Panels under one another over one axis of steps, and the curves in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from analysis.intervals import Estimate
from analysis.reporting.figures.style import COLOURS, DASHES, GREY, finish
from analysis.reporting.text import has_interval

Draw = Callable[[Figure, int], None]  # draws a panel at a row


def stack(panels: Sequence[Draw], height: int) -> Figure:
    """Panels over one axis of steps, each with a legend of its own beside it."""
    figure = make_subplots(rows=len(panels), shared_xaxes=True, vertical_spacing=0.12 / len(panels))
    for row, draw in enumerate(panels, start=1):
        draw(figure, row)
        top = figure.get_subplot(row, 1).yaxis.domain[1]
        place = {"y": top, "yanchor": "top", "x": 1.01, "tracegroupgap": 0}
        figure.update_layout({f"legend{row}": place})
    figure.update_xaxes(title_text="step", row=len(panels), col=1)
    return finish(figure, height * len(panels) + 60, hovermode="x unified")


def curve(
    figure: Figure,
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
        line_width=0,
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
        marker_size=5,
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

    def draw(figure: Figure, row: int) -> None:
        for name, values in curves.items():
            curve(figure, row, steps, values, name)
        if level is not None:
            figure.add_hline(y=level, line={"color": GREY, "width": 1}, row=row, col=1)
        figure.update_yaxes(title_text=title, row=row, col=1, **axis)

    return draw


def plain(
    figure: Figure, row: int, xs: Sequence[float], ys: Sequence[float], name: str, **how: Any
) -> None:
    """A line without an interval."""
    how = {"mode": "lines", "row": row, "col": 1, "legend": f"legend{row}", **how}
    figure.add_scatter(x=xs, y=ys, name=name, **how)

"""The map of heads, layers x heads, at each checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from plotly.graph_objects import Figure

from analysis.heads.changes import CHANGES
from analysis.intervals import Estimate
from analysis.models.graph import Graph, Head, head_name
from analysis.reporting.figures.style import GREY, MARKS, RED, Content, finish
from analysis.reporting.kinds import LINEAR
from analysis.reporting.text import number
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point

SCALE = [[0, "#f2f2ee"], [0.1, "#fbe3ae"], [0.4, "#f0a830"], [1, "#b85c00"]]  # few heads lead
T = TypeVar("T")
CELL = 28  # height of a layer of the map in pixels


def head_map(run: Run) -> Figure:
    """Layers x heads: colour is importance, marks are states, the slider selects a checkpoint."""
    return Figure(head_map_content(run))


def head_map_content(run: Run) -> Content:
    """`head_map` in plain values: plotly checks and copies every cell of every checkpoint."""
    points = run.points
    graph, last = points[0].record.graph, len(points) - 1
    linear = [
        place for place, kind in zip(graph.heads, graph.head_kinds, strict=True) if kind == LINEAR
    ]
    highest = max(float(point.record.shares.nan_to_num(0.0).max()) for point in points)
    traces, steps, outlines = [], [], [True] * (3 if linear else 2)
    for index, point in enumerate(points):
        traces += [{**trace, "visible": index == last} for trace in _map_of(point)]
        visible = [i == index for i in range(len(points)) for _ in ("cells", *MARKS)]
        shown = {"method": "restyle", "args": ["visible", [*visible, *outlines]]}
        steps.append({**shown, "label": str(point.step)})
    first, final = (
        [graph.heads[head] for head in points[i].record.in_circuit.nonzero().flatten().tolist()]
        for i in (0, last)
    )
    black, red = {"color": "black", "width": 1.5}, {"color": RED, "width": 1.5, "dash": "3px,2px"}
    outer = _outlines(final, 0.46, black, "final circuit")
    traces += [outer, _outlines(first, 0.36, red, "base's circuit")]
    if linear:
        traces.append(_outlines(linear, 0.41, {"color": GREY, "width": 1}, "linear attention"))
    axes: dict[str, Any] = {"dtick": 1, "showgrid": False, "zeroline": False}
    bar = {"title": {"text": "importance"}, "thickness": 15, "lenmode": "pixels", "len": 170}
    slider = {"pad": {"t": 50}, "currentvalue": {"prefix": "step "}}
    colours = {"cmin": 0, "cmax": highest, "colorscale": SCALE}
    return finish(
        traces,
        CELL * graph.n_layers + 270,
        xaxis={"title": {"text": "head"}, "range": [-0.55, graph.n_heads - 0.45], **axes},
        yaxis={"title": {"text": "layer"}, "range": [-0.55, graph.n_layers - 0.45], **axes},
        coloraxis={**colours, "colorbar": {**bar, "y": 1, "yanchor": "top"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 60, "r": 10, "t": 70, "b": 10},
        sliders=[{**slider, "active": last, "steps": steps}],
    )


def rectangle(graph: Graph, values: Sequence[T]) -> list[list[T | None]]:
    """Values of the heads, [A], as rows of layers; None where a layer has no such head."""
    rows: list[list[T | None]] = [[None] * graph.n_heads for _ in range(graph.n_layers)]
    for (layer, head), value in zip(graph.heads, values, strict=True):
        rows[layer][head] = value
    return rows


def known(values: Sequence[float]) -> list[float | None]:
    """None for NaN."""
    return [None if math.isnan(value) else value for value in values]


def _map_of(point: Point) -> list[dict[str, Any]]:
    """One checkpoint of the map: the coloured cells, then one trace of marks for each of MARKS."""
    graph, hover = point.record.graph, _hover(point)
    cells: dict[str, Any] = {
        "type": "heatmap",
        "coloraxis": "coloraxis",
        "xgap": 2,
        "ygap": 2,
        "z": rectangle(graph, known(point.record.shares.tolist())),
        "text": rectangle(graph, hover),
        "hovertemplate": "%{text}<extra></extra>",
    }
    if graph.is_ragged:  # where there is no head, there is nothing to say
        cells["hoverongaps"] = False
    return [cells, *(_marks(point, name) for name in MARKS)]


def _marks(point: Point, name: str) -> dict[str, Any]:
    """The heads of one kind as marks; those of a change that is called are not open but filled."""
    state, only_called = name.removesuffix(", called"), name.endswith(", called")
    mask = point.masks[state]
    if state in CHANGES:
        called = point.change.called[state]
        mask = mask & (called if only_called else ~called)
    places = [point.record.graph.heads[head] for head in mask.nonzero().flatten().tolist()]
    symbol, colour = MARKS[name]
    size, line = (5, 0) if state == "retained" else (10, 0 if only_called else 2)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "hoverinfo": "skip",
        "x": [head for _, head in places] or [None],
        "y": [layer for layer, _ in places] or [None],
        "marker": {
            "symbol": symbol,
            "color": colour,
            "size": size,
            "line": {"width": line, "color": colour},
        },
    }


def _hover(point: Point) -> list[str]:
    """What the map says about each head."""
    change, graph = point.change, point.record.graph
    called = change.called["emergent"] | change.called["pruned"]
    columns = (
        change.inclusion_before,
        change.inclusion_after,
        change.p_value,
        point.record.shares,
        change.effect,
        change.effect_low,
        change.effect_high,
    )
    found = []
    marked = called.tolist()
    kinds = [f"{kind} attention, " * (kind == LINEAR) for kind in graph.head_kinds]
    for index, numbers in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        before, after, p, importance, *effect = numbers
        state = point.states[index] or "never in a circuit"
        tested = f"<br>inclusion {before:.2f} → {after:.2f}, p = {p:.2g}" * change.is_tested
        amounts = ""
        if not math.isnan(importance):
            amounts = f"<br>importance {importance:.4f}"
        if not math.isnan(effect[0]):
            amounts = f"<br>E = {number(Estimate(*effect))}{amounts}"
        found.append(
            f"<b>{head_name(graph.heads[index])}</b> {kinds[index]}{state}"
            f"{', called' * marked[index]}"
            f"{tested}{amounts}"
        )
    return found


def _outlines(places: list[Head], reach: float, line: dict[str, Any], name: str) -> dict[str, Any]:
    """Squares around cells as one line with gaps."""
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))
    path: list[tuple[float | None, float | None]] = [(None, None)]
    for y, x in places:
        path += [(x + reach * right, y + reach * up) for right, up in corners] + [(None, None)]
    return {
        "type": "scatter",
        "mode": "lines",
        "line": line,
        "name": name,
        "hoverinfo": "skip",
        "x": [x for x, _ in path],
        "y": [y for _, y in path],
    }

"""The map of heads, layers x heads, at each checkpoint."""

from __future__ import annotations

from typing import Any

from plotly.graph_objects import Figure

from analysis.heads.changes import CHANGES
from analysis.intervals import Estimate
from analysis.models.graph import short_head_name
from analysis.reporting.figures.style import MARKS, RED, Content, finish
from analysis.reporting.text import number
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point

SCALE = [[0, "#f2f2ee"], [0.1, "#fbe3ae"], [0.4, "#f0a830"], [1, "#b85c00"]]  # few heads lead
CELL = 28  # height of a layer of the map in pixels


def head_map(run: Run) -> Figure:
    """Layers x heads: colour is importance, marks are states, the slider selects a checkpoint."""
    return Figure(head_map_content(run))


def head_map_content(run: Run) -> Content:
    """`head_map` in plain values: plotly checks and copies every cell of every checkpoint."""
    points = run.points
    graph, last = points[0].record.graph, len(points) - 1
    highest = max(float(point.record.importance.max()) for point in points)
    traces, steps = [], []
    for index, point in enumerate(points):
        traces += [{**trace, "visible": index == last} for trace in _map_of(point)]
        visible = [i == index for i in range(len(points)) for _ in ("cells", *MARKS)]
        shown = {"method": "restyle", "args": ["visible", [*visible, True, True]]}
        steps.append({**shown, "label": str(point.step)})
    first, final = (points[i].record.in_circuit.nonzero().flatten().tolist() for i in (0, last))
    black, red = {"color": "black", "width": 1.5}, {"color": RED, "width": 1.5, "dash": "3px,2px"}
    outer = _outlines(final, graph.n_heads, 0.46, black, "final circuit")
    traces += [outer, _outlines(first, graph.n_heads, 0.36, red, "base's circuit")]
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


def _map_of(point: Point) -> list[dict[str, Any]]:
    """One checkpoint of the map: the coloured cells, then one trace of marks for each of MARKS."""
    width = point.record.graph.n_heads
    hover = _hover(point)
    cells = {
        "type": "heatmap",
        "coloraxis": "coloraxis",
        "xgap": 2,
        "ygap": 2,
        "z": point.record.importance.view(-1, width).tolist(),
        "text": [hover[start : start + width] for start in range(0, len(hover), width)],
        "hovertemplate": "%{text}<extra></extra>",
    }
    return [cells, *(_marks(point, name) for name in MARKS)]


def _marks(point: Point, name: str) -> dict[str, Any]:
    """The heads of one kind as marks; those of a change that is called are not open but filled."""
    state, only_called = name.removesuffix(", called"), name.endswith(", called")
    mask = point.masks[state]
    if state in CHANGES:
        called = point.change.called[state]
        mask = mask & (called if only_called else ~called)
    places, width = mask.nonzero().flatten().tolist(), point.record.graph.n_heads
    symbol, colour = MARKS[name]
    size, line = (5, 0) if state == "retained" else (10, 0 if only_called else 2)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "hoverinfo": "skip",
        "x": [place % width for place in places] or [None],
        "y": [place // width for place in places] or [None],
        "marker": {
            "symbol": symbol,
            "color": colour,
            "size": size,
            "line": {"width": line, "color": colour},
        },
    }


def _hover(point: Point) -> list[str]:
    """What the map says about each head."""
    change, names = point.change, point.record.graph.head_names
    called = change.called["emergent"] | change.called["pruned"]
    columns = (
        change.inclusion_before,
        change.inclusion_after,
        change.p_value,
        point.record.importance,
        change.effect,
        change.effect_low,
        change.effect_high,
    )
    found = []
    marked = called.tolist()
    for index, numbers in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        before, after, p, importance, *effect = numbers
        state = point.states[index] or "never in a circuit"
        tested = f"<br>inclusion {before:.2f} → {after:.2f}, p = {p:.2g}" * change.is_tested
        found.append(
            f"<b>{short_head_name(names[index])}</b> {state}{', called' * marked[index]}"
            f"{tested}<br>E = {number(Estimate(*effect))}<br>importance {importance:.4f}"
        )
    return found


def _outlines(
    places: list[int], width: int, reach: float, line: dict[str, Any], name: str
) -> dict[str, Any]:
    """Squares around cells as one line with gaps."""
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))
    path: list[tuple[float | None, float | None]] = [(None, None)]
    for place in places:
        y, x = divmod(place, width)
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

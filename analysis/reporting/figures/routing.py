"""How a mixture of experts gives its tokens to experts, over the checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.heads.routing_changes import RoutingChange
from analysis.reporting.figures.head_map import CELL, SCALE
from analysis.reporting.figures.panels import Stack, curve, suffix
from analysis.reporting.figures.style import Content, finish
from analysis.trajectories.run import Run

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CURVE, GAP = 200, 70  # pixels of height


def routings(run: Run) -> list[tuple[int, RoutingChange]]:
    """Step and routing of each checkpoint where it was measured."""
    return [(point.step, point.routing) for point in run.points if point.routing is not None]


def routing_chart(run: Run) -> Figure:
    """The share of tokens whose experts changed, over all layers and layer by layer; the loads."""
    from plotly.graph_objects import Figure

    return Figure(routing_content(run))


def routing_content(run: Run) -> Content:
    """`routing_chart` in plain values, of a run with a checkpoint whose routing was measured."""
    found = routings(run)
    layers = sorted({layer for _, routing in found for layer in routing.load})
    figure, last = Stack(), found[-1]
    known = [(step, routing.overall) for step, routing in found if routing.overall is not None]
    curve(figure, 1, [step for step, _ in known], [share for _, share in known], "changed")
    names = [str(layer) for layer in layers]
    changed = [[_share(routing, layer) for _, routing in found] for layer in layers]
    steps = [str(step) for step, _ in found]
    figure.traces.append(
        _map(2, "layer %{y}, step %{x}: %{z:.3f} of the tokens", x=steps, y=names, z=changed)
    )
    loads = [last[1].load[layer][0].tolist() if layer in last[1].load else [] for layer in layers]
    figure.traces.append(
        _map(3, "layer %{y}, expert %{x}: %{z:.3f} of the tokens", y=names, z=loads)
    )
    heights = [CURVE, *[max(80, CELL * len(layers))] * 2]
    titles = (
        ("step", "tokens whose<br>experts changed"),
        ("step", "layer"),
        (f"expert, at step {last[0]}", "layer"),
    )
    kinds = ({"rangemode": "tozero"}, {"type": "category"}, {"type": "category"})
    whole, top = sum(heights) + GAP * len(heights), 1.0
    layout: dict[str, Any] = {"showlegend": False}
    for row, (height, (x, y), kind) in enumerate(zip(heights, titles, kinds, strict=True), start=1):
        place = {"anchor": f"x{suffix(row)}", "domain": [max(0.0, top - height / whole), top]}
        steps_only = {"type": "category"} if row == 2 else {}
        layout[f"xaxis{suffix(row)}"] = {
            **{"anchor": f"y{suffix(row)}", "title": {"text": x}},
            **steps_only,
        }
        layout[f"yaxis{suffix(row)}"] = {**place, "title": {"text": y}, **kind}
        if row > 1:
            title = {"text": "changed" if row == 2 else "load"}
            bar = {"y": top, "yanchor": "top", "lenmode": "pixels", "len": height, "thickness": 12}
            bar["title"] = title
            scale = {"cmin": 0, "colorscale": SCALE, "colorbar": bar}
            layout[f"coloraxis{suffix(row - 1)}"] = scale
        top -= (height + GAP) / whole
    return finish(figure.traces, whole, **layout)


def _map(row: int, hover: str, **values: Any) -> dict[str, Any]:
    """A heat map in the panel of a row."""
    return {
        "type": "heatmap",
        "coloraxis": f"coloraxis{suffix(row - 1)}",
        "hovertemplate": f"{hover}<extra></extra>",
        "xaxis": f"x{suffix(row)}",
        "yaxis": f"y{suffix(row)}",
        **values,
    }


def _share(routing: RoutingChange, layer: int) -> float | None:
    return routing.changed[layer].value if layer in routing.changed else None

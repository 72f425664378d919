"""What is said of the routing of a mixture of experts: a table of its layers, and a note."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.reporting.text import percent

if TYPE_CHECKING:
    from analysis.records.record import Record
    from analysis.trajectories.trajectory import Point

TITLES = (
    *("layer", "experts", "of a token", "tokens whose experts changed %"),
    *("busiest at base, % of tokens", "busiest now, % of tokens", "unused: base", "now"),
)


def routing_rows(points: Sequence[Point]) -> list[list[str]]:
    """The layers of the last of some points against the first, by TITLES; none without experts."""
    last, base = points[-1], points[0].routing
    if last.routing is None or last.record.experts is None:
        return []
    rows = []
    for layer, about in sorted(last.record.experts.layers.items()):
        changed = last.routing.changed.get(layer)
        there = base is not None and layer in base.load
        rows.append(
            [
                *(str(layer), str(about.experts), str(about.chosen)),
                "-" if changed is None else percent(changed),
                _busiest(points[0], layer) if there else "-",
                _busiest(last, layer),
                str(base.unused(layer)) if base is not None and there else "-",
                str(last.routing.unused(layer)),
            ]
        )
    return rows


def _busiest(point: Point, layer: int) -> str:
    assert point.routing is not None
    expert, load = point.routing.busiest(layer)
    return f"expert {expert}: {percent(load)}"


def routing_note(record: Record) -> str:
    """How the attribution's runs chose, and what the change of the metric is under both."""
    full, empty = (float(x) for x in record.evaluation[1:].double().mean(1))
    free, scored = empty - full, record.metric_corrupted - record.metric_clean
    if record.settings.get("routing", "free") == "free":
        return (
            "Every run of the attribution chose its experts (routing=free): what jumps where the "
            f"choice changes is in no score; completeness gap {record.completeness_gap:.2%}."
        )
    return (
        "The scores are those of the model with its experts held as at the clean prompt "
        f"(routing=frozen), where the metric changes by {scored:.3g} between the prompts; where "
        f"every run chooses, as in the circuits' faithfulness, it changes by {free:.3g}. The "
        "difference passes through the routing, and is in no score."
    )

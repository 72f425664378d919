"""Do two metrics find the same heads? One run, tracked under both, checkpoint by checkpoint.

Each metric makes a circuit of its own, and so its own heads that emerged or were pruned, raw and
called. Of the two sets at a checkpoint: how many heads each has and both have, their Jaccard index,
and what it would be by chance: of two sets of these sizes drawn at random and independently among
all heads (hypergeometric), as mean and 97.5 % point. p is the share of such draws that have as many
heads in common, or more. Heads that are called under both metrics rest on no choice of a metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from analysis.records.record import Record
from analysis.reporting.text import p_value
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point

SETS = {
    "in_circuit": "in the circuit",
    "emergent": "emergent",
    "emergent_called": "emergent, called",
    "pruned": "pruned",
    "pruned_called": "pruned, called",
}


@dataclass(frozen=True)
class Overlap:
    """Two sets of heads: how many each has, the heads of both, and their likeness.

    jaccard: NaN of two empty sets, as are chance (mean), chance_high (97.5 % point) and p_value.
    """

    a: int
    b: int
    both: list[str]
    jaccard: float
    chance: float
    chance_high: float
    p_value: float


@dataclass(frozen=True)
class Agreement:
    """Two runs of one training under two metrics. overlaps: by step, then by SETS."""

    labels: tuple[str, str]
    metrics: tuple[str, str]
    heads: int
    overlaps: dict[int, dict[str, Overlap]]


def overlap_of(a: torch.Tensor, b: torch.Tensor, names: Sequence[str]) -> Overlap:
    """Of two sets of heads, bool [A] each, that have the names."""
    one, two, total = int(a.sum()), int(b.sum()), len(names)
    both = [name for name, inside in zip(names, (a & b).tolist(), strict=True) if inside]
    if not one and not two:
        return Overlap(0, 0, both, *[math.nan] * 4)
    common = np.arange(max(0, one + two - total), min(one, two) + 1)
    likeness = common / (one + two - common)
    chances = stats.hypergeom.pmf(common, total, one, two)
    high = likeness[min(int(np.searchsorted(chances.cumsum(), 0.975)), len(common) - 1)]
    found = len(both)
    return Overlap(
        one,
        two,
        both,
        found / (one + two - found),
        float((likeness * chances).sum()),
        float(high),
        min(1.0, float(stats.hypergeom.sf(found - 1, total, one, two))),
    )


def differing(a: Record, b: Record) -> set[str]:
    """What two records were measured with that is not the same: names of settings, and the rest."""
    names = {*a.settings, *b.settings}
    found = {name for name in names if a.settings.get(name) != b.settings.get(name)}
    return found | {
        what for what in ("pairs_hash", "graph") if getattr(a, what) != getattr(b, what)
    }


def differ_in_metric(a: Record, b: Record) -> bool:
    """Whether two records were measured alike but for the metric."""
    return differing(a, b) == {"metric"}


def agree(a: Run, b: Run, steps: Sequence[int] | None = None) -> Agreement:
    """The agreement of two runs at the steps that both have, or at some of these.

    Raises:
        ValueError: they have no step in common, differ in more than the metric, or the weights of a
            step are not the same.
    """
    one, two = ({point.step: point for point in run.points} for run in (a, b))
    common = [step for step in one if step in two and (steps is None or step in steps)]
    if not common:
        raise ValueError(f"{a.path} and {b.path} have no tracked step in common")
    for step in common:
        _check(a, b, one[step].record, two[step].record)
    return Agreement(
        (a.label, b.label),
        (_metric(one[common[0]]), _metric(two[common[0]])),
        one[common[0]].record.graph.n_heads_total,
        {step: overlaps(one[step], two[step]) for step in common},
    )


def _check(a: Run, b: Run, one: Record, two: Record) -> None:
    if (found := differing(one, two)) != {"metric"}:
        listed = ", ".join(sorted(found)) or "nothing"
        raise ValueError(
            f"{a.path} and {b.path} differ in {listed} at step {one.step}; the agreement of two "
            "metrics needs runs that differ in tracking.metric only (headlab agreement)"
        )
    hashes = [(record.origin.get("model") or {}) for record in (one, two)]
    # an adapter that is not trained yet does nothing
    for part in ("weights", "adapter") if one.step else ("weights",):
        if hashes[0].get(part) != hashes[1].get(part):
            raise ValueError(
                f"{a.path} and {b.path} were tracked on different weights at step {one.step} "
                f"({hashes[0].get(part)} and {hashes[1].get(part)}); track the same checkpoints"
            )


def _metric(point: Point) -> str:
    return str(point.record.settings.get("metric", "?"))


def overlaps(a: Point, b: Point) -> dict[str, Overlap]:
    """Of the sets of two points, by SETS; those called only where the pairs can be resampled."""
    names = a.names(torch.ones_like(a.first).bool())
    found = {}
    for name in SETS:
        change, is_called, _ = name.partition("_called")
        if is_called and not (a.change.is_tested and b.change.is_tested):
            continue
        one, two = (
            point.change.called[change] if is_called else point.masks[change] for point in (a, b)
        )
        found[name] = overlap_of(one, two, names)
    return found


def agreement_rows(found: Agreement) -> list[list[str]]:
    """A heading, then a line for each step and set; the base has its circuit only."""
    lines = [["step", "heads", *found.metrics, "both", "Jaccard", "by chance", "97.5 %", "p"]]
    for step, sets in found.overlaps.items():
        for name, each in sets.items():
            if step == 0 and name != "in_circuit":
                continue
            numbers = (each.jaccard, each.chance, each.chance_high)
            cells = ("-" if math.isnan(value) else f"{value:.2f}" for value in numbers)
            first = str(step) if name == "in_circuit" else ""
            sizes = (str(each.a), str(each.b), str(len(each.both)))
            lines.append([first, SETS[name], *sizes, *cells, p_value(each.p_value)])
    return lines


def agreement_notes(found: Agreement) -> list[str]:
    """Which heads are called under both metrics at the last step, and what the columns mean."""
    last = max(found.overlaps)
    named = [
        label if label.endswith(f" under {metric}") else f"{label} under {metric}"
        for label, metric in zip(found.labels, found.metrics, strict=True)
    ]
    notes = [f"{' and '.join(named)}, {found.heads} heads in all."]
    for change in ("emergent", "pruned"):
        if (overlap := found.overlaps[last].get(f"{change}_called")) is not None:
            names = ", ".join(overlap.both) or "none"
            notes.append(f"Called {change} under both at step {last}: {names}.")
    notes.append(
        "By chance, 97.5 %: of two sets of these sizes drawn at random among all heads. p: share "
        "of such draws with as many heads in common."
    )
    return notes


def agreement_json(found: Agreement) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "runs": list(found.labels),
        "metrics": list(found.metrics),
        "heads": found.heads,
        "steps": {
            str(step): {name: asdict(each) for name, each in sets.items()}
            for step, sets in found.overlaps.items()
        },
    }


def format_agreement(found: Agreement) -> str:
    """Everything in plain text, in 80 columns."""
    import textwrap

    from analysis.reporting.text import WIDTH, text_tables

    table = text_tables(agreement_rows(found), "rlr", heading=1)
    notes = [part for note in agreement_notes(found) for part in textwrap.wrap(note, WIDTH)]
    return "\n".join([*table, table[1], *notes])

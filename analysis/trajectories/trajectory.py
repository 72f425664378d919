"""The records of a run, in order, as a trajectory of heads: what emerged, stayed, left, came back.

A pure function of records, so it does not matter in which order they were written, and a record
that is replaced or arrives late changes nothing but what follows from it. Definitions of a single
change are in analysis/heads/changes.py; over checkpoints there are further

    transient   not in the base's circuit, in that of an earlier checkpoint, not in this one
    cohort      the checkpoint at which a head was emergent for the first time (arXiv 2509.25758)
    settled     a call with hysteresis: a head becomes settled emergent (or pruned) at the second of
                HYSTERESIS = 2 consecutive checkpoints that call it, and stops being so at the
                second of two that have it in the raw set no more; between, the state stands

Turnover is between consecutive checkpoints, everything else against the base, the record of step 0.
Sensitivity: the counts again for circuits of other sizes, and for circuits of all edges whose
signed score is at least tau, for tau as shares of the base's gap m(corrupted) - m(clean).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from analysis.files import write_json
from analysis.heads.changes import (
    CHANGES,
    FDR,
    HYSTERESIS,
    Change,
    Heads,
    calls,
    compare,
    sets,
)
from analysis.heads.resampling import sweep_sizes
from analysis.intervals import Association, Estimate, association, estimate_of_set
from analysis.models.graph import short_head_name
from analysis.records.record import Record

TAU_SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
STATES = ("in_circuit", "emergent", "retained", "pruned", "transient")


@dataclass(frozen=True)
class Setting:
    """Counts under another selection: `by` is top_n or tau, `value` its value.

    counts: in_circuit, emergent, retained, pruned.  called: emergent and pruned heads called.
    """

    by: str
    value: float
    counts: dict[str, Estimate]
    called: dict[str, int]


@dataclass(frozen=True)
class Point:
    """One checkpoint of a trajectory.

    change: against the base.  turn: against the checkpoint before (None at the base).
    masks, settled: raw and settled sets by name, bool [L * H].  counts: of the raw sets, by STATES.
    first, first_settled: cohort of each head, the step of its first emergence, or -1: [L * H].
    """

    record: Record
    change: Change
    turn: Change | None
    masks: dict[str, torch.Tensor]
    settled: dict[str, torch.Tensor]
    counts: dict[str, Estimate]
    first: torch.Tensor
    first_settled: torch.Tensor
    sensitivity: list[Setting]

    @property
    def step(self) -> int:
        return self.record.step

    def state(self, head: int) -> str | None:
        """Raw state of a head, or None if it has never been in a circuit."""
        names = ("emergent", "retained", "pruned", "transient")
        return next((name for name in names if self.masks[name][head]), None)

    def names(self, mask: torch.Tensor) -> list[str]:
        """Heads of a mask [L * H], as L3H2."""
        return [short_head_name(name) for name in self.record.graph.names_of(mask)]


Known = dict[tuple[Any, ...], tuple[Change, Change | None, list[Setting]]]


def trajectory(
    records: Sequence[Record],
    q: float = FDR,
    hysteresis: int = HYSTERESIS,
    known: Known | None = None,
) -> list[Point]:
    """The points of comparable records, by step.

    known: what was computed for these records before, which is taken as it is, and added to; a run
        that adds one checkpoint at a time computes each of them once.

    Raises:
        ValueError: there is no record of step 0, or hysteresis is below 1.
    """
    ordered = sorted(records, key=lambda record: record.step)
    if not ordered or ordered[0].step != 0:
        raise ValueError("there is no record of step 0, the base, to compare with; track the base")
    if hysteresis < 1:
        raise ValueError(f"hysteresis must be 1 checkpoint or more, not {hysteresis}")
    base = ordered[0]
    base_heads, size = base.heads, base.in_circuit.shape
    base_inside = base_heads.inside
    ever = torch.zeros_like(base_inside)
    settled = {name: torch.zeros(size, dtype=torch.bool) for name in CHANGES}
    runs = {name: torch.zeros(size, dtype=torch.int64) for name in CHANGES}
    first, first_settled = (torch.full(size, -1) for _ in range(2))
    points: list[Point] = []
    for record in ordered:
        heads = record.heads
        previous = points[-1].record if points else None
        key = (base.digest, record.digest, previous.digest if previous else None, q)
        if known is None or not all(key[:2]) or key not in known:
            turn = None if previous is None else compare(previous.heads, heads, q)
            found = compare(base_heads, heads, q), turn, sensitivity(base, record, q)
            if known is not None:
                known[key] = found
        else:
            found = known[key]
        change, turn, settings = found
        inside = heads.inside
        transients = ever & ~base_inside & ~inside
        ever = ever | inside
        for name in CHANGES:
            settled[name], runs[name] = _hold(
                settled[name], runs[name], change.called[name], change.masks[name], hysteresis
            )
        first = torch.where((first < 0) & change.masks["emergent"], record.step, first)
        first_settled = torch.where(
            (first_settled < 0) & settled["emergent"], record.step, first_settled
        )
        gone = (first_settled >= 0) & ~settled["emergent"] & transients[0]
        count = estimate_of_set(transients.sum(1).double(), 0, size[0])
        count = Estimate(count.value, min(count.low, float(gone.sum())), count.high)
        points.append(
            Point(
                record=record,
                change=change,
                turn=turn,
                masks={**change.masks, "transient": transients[0]},
                settled={**settled, "transient": gone},
                counts={**change.counts, "transient": count},
                first=first,
                first_settled=first_settled,
                sensitivity=settings,
            )
        )
    return points


def _hold(
    settled: torch.Tensor, runs: torch.Tensor, called: torch.Tensor, raw: torch.Tensor, needed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the hysteresis: runs counts checkpoints in a row against the present state."""
    against = torch.where(settled, ~raw, called)
    runs = torch.where(against, runs + 1, 0)
    flips = runs >= needed
    return settled ^ flips, torch.where(flips, 0, runs)


def sensitivity(base: Record, now: Record, q: float = FDR) -> list[Setting]:
    """The counts over the sweeps of top_n and of tau."""
    a, b = base.resampled, now.resampled
    found = []
    for column, size in enumerate(sweep_sizes(now.graph, now.selection["top_n"])):
        before, after = (
            Heads(r.strength, r.sweep[:, column], r.importance, record.n_pairs)
            for r, record in ((a, base), (b, now))
        )
        found.append(_setting("top_n", size, before, after, q))
    gap = abs(base.metric_corrupted - base.metric_clean)
    for share in TAU_SHARES:
        before, after = (
            Heads(r.signed, torch.full_like(r.threshold, share * gap), r.importance, record.n_pairs)
            for r, record in ((a, base), (b, now))
        )
        found.append(_setting("tau", share * gap, before, after, q))
    return found


def _setting(by: str, value: float, before: Heads, after: Heads, q: float) -> Setting:
    masks = sets(before.inside, after.inside)
    changed, _ = calls(before, after, q)
    called = {name: int((masks[name][0] & changed).sum()) for name in CHANGES}
    counts = {}
    for name, mask in masks.items():
        count = estimate_of_set(mask.sum(1).double(), 0, mask.shape[1])
        low = min(count.low, called.get(name, count.low))
        counts[name] = Estimate(count.value, low, count.high)
    return Setting(by, value, counts, called)


def curves(points: Sequence[Point]) -> dict[str, list[Estimate]]:
    """Every curve of a trajectory over its checkpoints; turnover begins at the second one."""
    found = {name: [p.counts[name] for p in points] for name in STATES}
    for name in (*CHANGES, "transient"):
        settled = [float(p.settled[name].sum()) for p in points]
        found[f"{name}_settled"] = [Estimate(x, x, x) for x in settled]
    for name in ("jaccard", "overlap", "rank_correlation"):
        found[name] = [getattr(p.change, name) for p in points]
    turns = [p.turn for p in points if p.turn is not None]
    found["turnover"] = [turn.turnover for turn in turns]
    found["excess_turnover"] = [turn.excess_turnover for turn in turns]
    return found


def associations(points: Sequence[Point], signal: Sequence[float | None]) -> dict[str, Association]:
    """Spearman's rho of the training signal with each curve, over the checkpoints after the base.

    signal: loss or reward of each point; those without one are left out.
    """
    found = {}
    for name, values in curves(points).items():
        late = signal[len(signal) - len(values) :]  # turnover begins at the second checkpoint
        known = [(s, v.value) for s, v in zip(late, values, strict=True) if s is not None]
        if known:
            found[name] = association([s for s, _ in known], [v for _, v in known])
    return found


def ever_in_circuit(points: Sequence[Point]) -> torch.Tensor:
    """Heads that were in the circuit of some checkpoint: bool [L * H]."""
    return torch.stack([point.masks["in_circuit"] for point in points]).any(0)


def write_trajectory(path: Path, points: Sequence[Point]) -> None:
    """Write what the curves show as JSON, for other programs; it can always be made again."""
    write_json(path, {"checkpoints": [_json(point) for point in points]})


def _json(point: Point) -> dict[str, Any]:
    names = point.names
    turn = point.turn
    return {
        "step": point.step,
        "counts": {name: asdict(count) for name, count in point.counts.items()},
        "null": {name: list(chance) for name, chance in point.change.null.items()},
        "jaccard_with_base": asdict(point.change.jaccard),
        "weighted_overlap_with_base": asdict(point.change.overlap),
        "rank_correlation_with_base": asdict(point.change.rank_correlation),
        "turnover": None if turn is None else asdict(turn.turnover),
        "excess_turnover": None if turn is None else asdict(turn.excess_turnover),
        "faithfulness": asdict(point.record.faithfulness()),
        "raw": {name: names(mask) for name, mask in point.masks.items()},
        "called": {name: names(mask) for name, mask in point.change.called.items()},
        "settled": {name: names(mask) for name, mask in point.settled.items()},
        "sensitivity": [asdict(setting) for setting in point.sensitivity],
        "origin": point.record.origin,
    }

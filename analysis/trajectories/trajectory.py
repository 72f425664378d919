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
The counts again under other selections: analysis/trajectories/sensitivity.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from analysis.files import write_json
from analysis.heads.calls import level_of
from analysis.heads.changes import (
    CHANGES,
    FDR,
    HYSTERESIS,
    Change,
    Members,
    Turn,
    compare,
    down_to,
    evidence_of,
    turn,
)
from analysis.heads.routing_changes import RoutingChange, compare_routing
from analysis.heads.same import FIGURES, Same
from analysis.intervals import Association, Estimate, association, estimate_of_set, resamples_of
from analysis.models.allocator import return_freed_memory
from analysis.models.graph import short_head_name
from analysis.records.record import Record
from analysis.trajectories.sensitivity import Opened, Setting, Sweeps

TRIM = 16  # records after which freed memory goes back
STATES = ("in_circuit", "emergent", "retained", "pruned", "transient")


@dataclass(frozen=True)
class Point:
    """One checkpoint of a trajectory.

    change: against the base.  turn: against the checkpoint before (None at the base).
    masks, settled: raw and settled sets by name, bool [A].  counts: of the raw sets, by STATES.
    first, first_settled: cohort of each head, the step of its first emergence, or -1: [A].
    entered: the step at which each head was in the circuit for the first time, or -1: [A].
    routing: against the base, of a mixture of experts.
    """

    record: Record
    change: Change
    turn: Turn | None
    masks: dict[str, torch.Tensor]
    settled: dict[str, torch.Tensor]
    counts: dict[str, Estimate]
    first: torch.Tensor
    first_settled: torch.Tensor
    entered: torch.Tensor
    sweeps: Sweeps
    routing: RoutingChange | None = None

    @property
    def step(self) -> int:
        return self.record.step

    @property
    def sensitivity(self) -> list[Setting]:
        """The counts over the sweeps of top_n and of tau, called up to the run's level."""
        return self.sweeps.settings(self.change.level)

    @cached_property
    def ranked(self) -> list[int]:
        """Heads in the circuit, the most important first."""
        importance = self.record.importance.tolist()
        inside = self.masks["in_circuit"].nonzero().flatten().tolist()
        return sorted(inside, key=lambda head: -float(importance[head]))

    @cached_property
    def newcomers(self) -> list[int]:
        """Heads that are in the circuit for the first time, the most important first."""
        entered = self.entered.tolist()
        return [head for head in self.ranked if entered[head] == self.step]

    @cached_property
    def cohorts(self) -> dict[int, int]:
        """How many heads are emergent, by the step of their first emergence; in order of steps."""
        return sizes_by_step(self.first, self.masks["emergent"])

    @cached_property
    def states(self) -> list[str | None]:
        """Raw state of each head, or None if it has never been in a circuit."""
        found: list[str | None] = [None] * len(self.first)
        for name in ("transient", "pruned", "retained", "emergent"):
            for head in self.masks[name].nonzero().flatten().tolist():
                found[head] = name
        return found

    def state(self, head: int) -> str | None:
        """Raw state of a head, or None if it has never been in a circuit."""
        return self.states[head]

    def names(self, mask: torch.Tensor) -> list[str]:
        """Heads of a mask [A], as L3H2."""
        return [short_head_name(name) for name in self.record.graph.names_of(mask)]


def sizes_by_step(first: torch.Tensor, mask: torch.Tensor) -> dict[int, int]:
    """How many heads of a mask [A] have each step as their first, by step."""
    return dict(sorted(Counter(first[mask].tolist()).items()))


@dataclass(frozen=True)
class Compared:
    """A record compared with the base and with the record before it: all that costs time.

    change: called over these two records only; the run's level is found when all are known.
    members: heads in the circuit, [1+R] rows.
    """

    members: Members
    change: Change
    turn: Turn | None
    sweeps: Sweeps
    routing: RoutingChange | None


# (digests of the base, of the record and of the one before it, q) -> what they gave
Known = dict[tuple[str, str, str | None, float], Compared]


def trajectory(
    records: Sequence[Record],
    q: float = FDR,
    hysteresis: int = HYSTERESIS,
    known: Known | None = None,
) -> list[Point]:
    """The points of comparable records, by step.

    known: comparisons that were made before. Those that are in it are not made again, and new ones
        are put into it. Keep one dictionary for all calls: then each record is compared once,
        however often the trajectory is made. It is keyed by what is in the records' files, so a
        record that was replaced is compared anew.

    Raises:
        ValueError: there is no record of step 0, or hysteresis is below 1.

    One record after another is looked at: of those that were read from files, no more than three
    are in memory at once. Heads are called at one level for all records (analysis/heads/calls.py).
    """
    ordered = sorted(records, key=lambda record: record.step)
    if not ordered or ordered[0].step != 0:
        raise ValueError("there is no record of step 0, the base, to compare with; track the base")
    if hysteresis < 1:
        raise ValueError(f"hysteresis must be 1 checkpoint or more, not {hysteresis}")
    base, known = Opened(ordered[0]), {} if known is None else known
    compared: list[Compared] = []
    before = None
    for record in ordered:
        now = base if record is ordered[0] else Opened(record)
        compared.append(_compare(base, before, now, q, known))
        before = now
        if len(compared) % TRIM == 0:
            return_freed_memory()
    level = level_of([each.change.evidence for each in compared[1:]], q)
    state = _State.at_the_start(base.heads.members, base.heads.strength.shape[1])
    points: list[Point] = []
    for record, each in zip(ordered, compared, strict=True):
        state, point = state.step(record, each, level, hysteresis)
        points.append(point)
    return points


def run_level(records: Sequence[Record], q: float = FDR) -> float:
    """The level at which `trajectory` calls the heads of comparable records, and nothing else.

    records: the base first.
    """
    base = records[0].heads
    return level_of([evidence_of(base, record.heads) for record in records[1:]], q)


def _compare(base: Opened, before: Opened | None, now: Opened, q: float, known: Known) -> Compared:
    """From `known`, or made and put into it; a record that is in no file has no digest to know."""
    last = None if before is None else before.record.digest
    key = (base.record.digest, now.record.digest, last, q)
    if key in known:
        return known[key]
    found = Compared(
        members=now.heads.members,
        change=compare(base.heads, now.heads, q),
        turn=None if before is None else turn(before.heads, now.heads, q),
        sweeps=Sweeps(base, now.record),
        routing=_routing(base.record, now.record),
    )
    if "" not in key:
        known[key] = found
    return found


def _routing(base: Record, now: Record) -> RoutingChange | None:
    """Of a mixture of experts whose routing was measured."""
    if now.experts is None:
        return None
    return compare_routing(base.experts, now.experts, resamples_of(now.weights, now.distinct))


@dataclass(frozen=True)
class _Held:
    """A settled set, bool [A], and the checkpoints in a row that speak against it, [A]."""

    settled: torch.Tensor
    against: torch.Tensor

    def step(self, called: torch.Tensor, raw: torch.Tensor, needed: int) -> _Held:
        """The same after a checkpoint: a head is turned over by `needed` of them in a row."""
        runs = torch.where(torch.where(self.settled, ~raw, called), self.against + 1, 0)
        flips = runs >= needed
        return _Held(self.settled ^ flips, torch.where(flips, 0, runs))


@dataclass(frozen=True)
class _State:
    """What is carried from checkpoint to checkpoint.

    base, ever: heads in the circuit of the base, and in one so far, [1+R] rows.
    held: by CHANGES.  first, first_settled, entered: as in Point, [A].
    """

    base: Members
    ever: Members
    held: dict[str, _Held]
    first: torch.Tensor
    first_settled: torch.Tensor
    entered: torch.Tensor

    @classmethod
    def at_the_start(cls, base: Members, n_heads: int) -> _State:
        """Before the first record, which is the base itself."""
        none, never = torch.zeros(n_heads, dtype=torch.bool), torch.full((n_heads,), -1)
        held = _Held(none, torch.zeros(n_heads, dtype=torch.int64))
        nothing = base.without(base)
        return cls(base, nothing, dict.fromkeys(CHANGES, held), never, never, never)

    def step(
        self, record: Record, compared: Compared, level: float, hysteresis: int
    ) -> tuple[_State, Point]:
        """The state after a record, and its point."""
        change, inside = compared.change.at(level), compared.members
        transients = self.ever.without(self.base).without(inside)
        transient = transients.unpacked(len(self.first))
        held = {
            name: self.held[name].step(change.called[name], change.masks[name], hysteresis)
            for name in CHANGES
        }
        settled = {name: held[name].settled for name in CHANGES}
        first = _first(self.first, change.masks["emergent"], record.step)
        first_settled = _first(self.first_settled, settled["emergent"], record.step)
        entered = _first(self.entered, change.masks["in_circuit"], record.step)
        gone = (first_settled >= 0) & ~settled["emergent"] & transient
        left = _count(transients.sizes, len(gone), float(gone.sum()))
        point = Point(
            record=record,
            change=change,
            turn=compared.turn,
            masks={**change.masks, "transient": transient},
            settled={**settled, "transient": gone},
            counts={**change.counts, "transient": left},
            first=first,
            first_settled=first_settled,
            entered=entered,
            sweeps=compared.sweeps,
            routing=compared.routing,
        )
        ever = self.ever | inside
        return _State(self.base, ever, held, first, first_settled, entered), point


def _first(steps: torch.Tensor, mask: torch.Tensor, step: int) -> torch.Tensor:
    """The first step at which each head was in a mask, or -1, with one step more: [A]."""
    return torch.where((steps < 0) & mask, step, steps)


def _count(sizes: torch.Tensor, n_heads: int, at_most: float) -> Estimate:
    """Heads in a set, float64 [1+R]; the interval reaches down to a number."""
    return down_to(estimate_of_set(sizes, 0, n_heads), at_most)


def curves(points: Sequence[Point]) -> dict[str, list[Estimate]]:
    """Every curve of a trajectory over its checkpoints; turnover begins at the second one."""
    found = {name: [p.counts[name] for p in points] for name in STATES}
    for name in (*CHANGES, "transient"):
        settled = [float(p.settled[name].sum()) for p in points]
        found[f"{name}_settled"] = [Estimate(x, x, x) for x in settled]
    for name in ("jaccard", "overlap", "rank_correlation"):
        found[name] = [getattr(p.change, name) for p in points]
    turns = [p.turn for p in points if p.turn is not None]
    found["turnover"] = [last.turnover for last in turns]
    found["excess_turnover"] = [last.excess_turnover for last in turns]
    return found


def associations(points: Sequence[Point], signal: Sequence[float | None]) -> dict[str, Association]:
    """Spearman's rho of the training signal with each curve, over the checkpoints after the base.

    signal: loss or reward of each point; those without one, or with one that is no number, are
        left out.
    """
    found = {}
    for name, values in curves(points).items():
        late = signal[len(signal) - len(values) :]  # turnover begins at the second checkpoint
        known = [
            (s, v.value)
            for s, v in zip(late, values, strict=True)
            if s is not None and math.isfinite(s) and math.isfinite(v.value)
        ]
        if known:
            found[name] = association([s for s, _ in known], [v for _, v in known])
    return found


def ever_in_circuit(points: Sequence[Point]) -> torch.Tensor:
    """Heads that were in the circuit of some checkpoint, from the base on: bool [A]."""
    return points[-1].entered >= 0


def write_trajectory(path: str | Path, points: Sequence[Point]) -> None:
    """Write what the curves show as JSON, for other programs; it can always be made again."""
    write_json(Path(path), {"checkpoints": [_json(point) for point in points]})


def _json(point: Point) -> dict[str, Any]:
    names = point.names
    last = point.turn
    return {
        "step": point.step,
        "counts": {name: asdict(count) for name, count in point.counts.items()},
        "null": {name: list(chance) for name, chance in point.change.null.items()},
        "jaccard_with_base": asdict(point.change.jaccard),
        "weighted_overlap_with_base": asdict(point.change.overlap),
        "rank_correlation_with_base": asdict(point.change.rank_correlation),
        "turnover": None if last is None else asdict(last.turnover),
        "excess_turnover": None if last is None else asdict(last.excess_turnover),
        "faithfulness": asdict(point.record.faithfulness()),
        **({} if (kl := point.record.kl_from_base()) is None else {"kl_from_base": asdict(kl)}),
        "raw": {name: names(mask) for name, mask in point.masks.items()},
        "called": {name: names(mask) for name, mask in point.change.called.items()},
        "settled": {name: names(mask) for name, mask in point.settled.items()},
        "sensitivity": [asdict(setting) for setting in point.sensitivity],
        **({} if point.record.same is None else {"same": _same_json(point, point.record.same)}),
        **({} if point.routing is None else {"routing": _routing_json(point.routing)}),
        "origin": point.record.origin,
    }


def _same_json(point: Point, same: Same) -> dict[str, Any]:
    """The changed heads, how many have a figure below a half, and the figures of all heads."""

    def rounded(table: torch.Tensor) -> dict[str, list[float]]:
        rows = [[float(f"{x:.5g}") for x in row] for row in table.tolist()]
        return dict(zip(("value", "low", "high"), rows, strict=True))

    return {
        "changed": point.names(same.changed),
        "below": asdict(same.below),
        "heads": [short_head_name(name) for name in point.record.graph.head_names],
        **{name: rounded(getattr(same, name)) for name in FIGURES},
    }


def _routing_json(routing: RoutingChange) -> dict[str, Any]:
    """By layers; a load is a share of tokens for each expert."""
    return {
        "changed": {str(layer): asdict(share) for layer, share in routing.changed.items()},
        "load": {
            str(layer): dict(zip(("value", "low", "high"), load.tolist(), strict=True))
            for layer, load in routing.load.items()
        },
    }

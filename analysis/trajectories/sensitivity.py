"""The counts of a checkpoint under other selections: how much hangs on the size of the circuit.

For circuits of other sizes, and for circuits of all edges whose signed score is at least tau, for
tau as shares of the base's gap m(corrupted) - m(clean).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from analysis.heads.calls import Evidence
from analysis.heads.changes import CHANGES, Heads, down_to, evidence_of, set_sizes, sets
from analysis.heads.resampling import sweep_sizes
from analysis.intervals import Estimate, estimate_of_set
from analysis.records.record import Record

TAU_SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Setting:
    """Counts under another selection: `by` is top_n or tau, `value` its value.

    counts: in_circuit, emergent, retained, pruned.  called: emergent and pruned heads called.
    """

    by: str
    value: float
    counts: dict[str, Estimate]
    called: dict[str, int]


class Opened:
    """The tables of a record while it is compared; those that are asked for."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._sweeps: dict[float, list[tuple[str, float, Heads]]] = {}

    @cached_property
    def heads(self) -> Heads:
        return self.record.heads

    def sweeps(self, gap: float) -> list[tuple[str, float, Heads]]:
        """The heads under each setting of the sensitivity, whose tau are shares of a gap."""
        if gap not in self._sweeps:
            self._sweeps[gap] = list(_sweeps(self.record, gap))
        return self._sweeps[gap]


class Sweeps:
    """The sensitivity of one checkpoint, made when it is first asked for.

    It takes half as long as the rest of the comparison, and rows of loggers are without it.
    """

    def __init__(self, base: Opened, record: Record) -> None:
        self._base, self._record = base, record

    @cached_property
    def _swept(self) -> list[_Swept]:
        return _sensitivity(self._base, Opened(self._record))

    def settings(self, level: float) -> list[Setting]:
        """The counts of each, with what is called up to a level."""
        return [swept.at(level) for swept in self._swept]


@dataclass(frozen=True)
class _Swept:
    """What a setting gives, before the level of the run is known."""

    by: str
    value: float
    sizes: dict[str, Estimate]
    masks: dict[str, torch.Tensor]
    evidence: Evidence

    @classmethod
    def of(cls, by: str, value: float, before: Heads, after: Heads) -> _Swept:
        if 1 in (len(before.threshold), len(after.threshold)):
            before, after = before.bare, after.bare
        evidence, n_heads = evidence_of(before, after), before.strength.shape[1]
        sizes = set_sizes(before.members, after.members)
        found = {name: estimate_of_set(size, 0, n_heads) for name, size in sizes.items()}
        masks = sets(before.inside[0], after.inside[0])
        kept = {name: masks[name].clone() for name in CHANGES}  # no view that keeps the resamples
        return cls(by, value, found, kept, evidence)

    def at(self, level: float) -> Setting:
        changed = self.evidence.called(level)
        called = {name: int((mask & changed).sum()) for name, mask in self.masks.items()}
        counts = {
            name: down_to(size, called.get(name, len(changed))) for name, size in self.sizes.items()
        }
        return Setting(self.by, self.value, counts, called)


def _sensitivity(base: Opened, now: Opened) -> list[_Swept]:
    gap = abs(base.record.metric_corrupted - base.record.metric_clean)
    both = zip(base.sweeps(gap), now.sweeps(gap), strict=True)
    return [_Swept.of(by, value, before, after) for (*_, before), (by, value, after) in both]


def _sweeps(record: Record, gap: float) -> Iterator[tuple[str, float, Heads]]:
    """What is swept, its value, and the heads under it."""
    r, wide, distinct = record.resamples, record.wide, record.distinct

    def heads(strength: torch.Tensor, cut: torch.Tensor, more: Heads | None) -> Heads:
        return Heads(strength, cut, r.importance, distinct, more)

    for column, size in enumerate(sweep_sizes(record.graph, record.selection["top_n"])):
        more = None if wide is None else heads(wide.strength, wide.sweep[:, column], None)
        yield "top_n", size, heads(r.strength, r.sweep[:, column], more)
    for share in TAU_SHARES:
        tau = torch.where(r.threshold.isinf(), r.threshold, share * gap)  # no circuit: none
        more = None if wide is None else heads(wide.signed, tau, None)
        yield "tau", share * gap, heads(r.signed, tau, more)

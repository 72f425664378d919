"""Which changes of heads are called, and how often a call is wrong over a run.

The heads of a checkpoint are tested against those of the base. A change of a head's raw state
(analysis/heads/changes.py) is *called* if

    its inclusion differs from the base beyond a false-discovery rate: the log-margin by which it is
    in or out (log entry strength - log threshold, analysis/heads/widest_paths.py) is compared
    between the two, studentised by the paired bootstrap. Heads whose raw state has not changed
    have p = 1; and
    it is in that state in at least STABILITY of the resamples. The test is of the margin, and a
    margin can move without the state: this is what keeps such heads from being called.

The p-values of all heads at *all checkpoints of the run* are one family for Benjamini and Hochberg
(1995): one level for the whole run. Had each checkpoint its own, the rate would hold at each, but a
run of many checkpoints would hold false calls more often than it says. So a call at an early
checkpoint can change while the run goes on: each new checkpoint may move the level.
`headlab bench part=worlds` and docs/LOG.md have the rates measured where the truth is known.

Shape legend: A heads in all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from analysis.intervals import discoveries

# at 0.8 the rate was exceeded with much noise or few pairs, at 0.85 it is held (docs/LOG.md)
STABILITY = 0.85
NOTHING = -1.0  # a level below every p-value: nothing is called


@dataclass(frozen=True)
class Evidence:
    """What speaks for a change of each head between two checkpoints.

    p_value: float64 [A]; NaN where the pairs of either can't be resampled, and nothing is called.
    held: share of the resamples in which a head is in its raw state in both, [A]; 0 for those whose
    state has not changed, which are not called anyway.
    """

    p_value: torch.Tensor
    held: torch.Tensor

    def called(self, level: float, stability: float = STABILITY) -> torch.Tensor:
        """Heads whose change is called where a run's p-values are rejected up to `level`: [A]."""
        return (self.p_value <= level) & (self.held >= stability)


def level_of(family: Iterable[Evidence], q: float) -> float:
    """The p-value up to which Benjamini and Hochberg reject at rate q over all heads of a family.

    That is q k / m where k of m are rejected, and q / m where none is: no p-value of the family
    lies between the largest that is rejected and this, so other families (the sensitivity's) can
    be held to the same level. p-values that are NaN are left out; NOTHING where all are.
    """
    p = torch.cat([torch.empty(0, dtype=torch.float64), *(each.p_value for each in family)])
    p = p[~p.isnan()]
    if not len(p):
        return NOTHING
    return q * max(1, int(discoveries(p, q).sum())) / len(p)

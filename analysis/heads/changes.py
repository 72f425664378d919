"""How the heads of one checkpoint's circuit differ from those of another: all definitions.

Against the base checkpoint a head is (arXiv 2509.25758)

    emergent   in the checkpoint's circuit, not in the base's
    retained   in both
    pruned     in the base's circuit, not in the checkpoint's

These are differences of thresholded sets of noisy scores: measured again on other pairs they would
come out otherwise. So there are two sets of each. The *raw* ones are the sets above. A head is
*called* emergent or pruned only if it is so in the raw sets and this stands a test
(analysis/heads/calls.py) at the level of a family of tests: of the run's, or of these two only.

Further, between any two checkpoints a and b:

    Jaccard            |A and B| / |A or B|                 of head sets (arXiv 2407.10827)
    turnover           1 - Jaccard
    excess turnover    turnover - null. The null is the mean turnover between two resamples of the
                       pairs at one checkpoint, averaged over a and b. a and b are measured on the
                       same pairs and share their noise, the two resamples do not. So if nothing
                       moves, this is below 0, and a value above 0 is a cautious verdict
    weighted overlap   sum min(I_a, I_b) / sum max(I_a, I_b)              (Ruzicka 1958)
    I                  share of a head in the |score| of the circuit's edges out of heads
    effect             E = (I_b - I_a) / (I_b + I_a + 1e-6)               (arXiv 2509.25758)
    rank correlation   Spearman's rho of all heads' entry strengths

Intervals are 95 % bootstraps over pairs. Those of sets are hulls (analysis/intervals.py), and as
every change that is not called may be noise, the interval of a number of changes reaches down to
the called ones, and those of retained heads and of Jaccard up to what the called ones would leave.

Shape legend: R resamples, A heads in all; row 0 is the estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from analysis.heads.calls import Evidence, level_of
from analysis.intervals import (
    Estimate,
    centred_ranks,
    difference_p_values,
    estimate,
    estimate_of_set,
    percentile,
    rank_correlation,
)

COUNTS = ("in_circuit", "emergent", "retained", "pruned")
CHANGES = ("emergent", "pruned")
FDR = 0.05
HYSTERESIS = 2  # checkpoints in a row that settle a call (trajectories/trajectory.py)
_FLOOR = 1e-6  # of the threshold: weaker heads all have the same margin
_REACH = (_FLOOR, 1 / _FLOOR)


@dataclass(frozen=True)
class Heads:
    """The heads of one checkpoint under one selection, with resamples: [1+R, A] each.

    strength and threshold ([1+R]) decide; a threshold of infinity says that there is no circuit.
    importance is I of the module's docstring. R is 0 where the pairs can't be resampled
    (analysis/intervals.py). clusters: how many were resampled. What follows from them is kept, as a
    checkpoint is compared several times. wide: the same heads measured on further pairs too, row by
    row of the same draws, for the tests of changes.
    """

    strength: torch.Tensor
    threshold: torch.Tensor
    importance: torch.Tensor
    clusters: int
    wide: Heads | None = None

    @cached_property
    def inside(self) -> torch.Tensor:
        """Membership: bool [1+R, A]."""
        strong = self.strength >= self.threshold[:, None]
        return strong if bool((self.threshold > 0).all()) else strong & (self.strength > 0)

    @cached_property
    def members(self) -> Members:
        """Membership, packed."""
        return Members.of(self.inside)

    @property
    def bare(self) -> Heads:
        """The same without resamples."""
        rows = (self.strength[:1], self.threshold[:1], self.importance[:1])
        return Heads(*rows, self.clusters)

    def margin(self, heads: torch.Tensor) -> torch.Tensor:
        """Log entry strength less log threshold, at least 0 for the heads inside.

        0 where there is no circuit: heads are then compared with being just outside of one.

        heads: indices int64 [M] -> [1+R, M].
        """
        cut = self.threshold[:, None].double()
        cut = torch.where(cut > 0, cut, torch.finfo(torch.float32).tiny)
        found = self.strength.index_select(1, heads).double().div_(cut).clamp_(*_REACH).log_()
        return found.masked_fill_(cut.isinf(), 0.0)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Of all heads' entry strengths, less their mean, in each row: [1+R, A]."""
        return centred_ranks(self.strength.numpy())

    @cached_property
    def inclusion(self) -> torch.Tensor:
        """Share of the resamples in which a head is in the circuit: [A]; NaN without any."""
        return self.inside[1:].double().mean(0)


@dataclass(frozen=True)
class Turn:
    """How alike the circuits of `before` and `after` are as wholes; NaN as in Change.

    likeness: the Jaccard index of the sets as they are.  union: heads in either.
    evidence: of the single heads, which are called up to `level` (analysis/heads/calls.py).
    """

    likeness: Estimate
    union: float
    null_turnover: float
    overlap: Estimate
    evidence: Evidence
    level: float

    @property
    def is_tested(self) -> bool:
        """Whether the pairs could be resampled."""
        return not math.isnan(self.null_turnover)

    @cached_property
    def found(self) -> torch.Tensor:
        """Heads whose change is called: bool [A]."""
        return self.evidence.called(self.level)

    @cached_property
    def jaccard(self) -> Estimate:
        """The likeness; its interval reaches up to what the called heads would leave."""
        return _up_to(self.likeness, 1 - float(self.found.sum()) / max(1, self.union))

    @property
    def turnover(self) -> Estimate:
        """1 - Jaccard."""
        likeness = self.jaccard
        return Estimate(1 - likeness.value, 1 - likeness.high, 1 - likeness.low)

    @property
    def excess_turnover(self) -> Estimate:
        """Turnover beyond what resampling the pairs gives at one checkpoint."""
        return self.turnover.minus(self.null_turnover)


@dataclass(frozen=True)
class Change(Turn):
    """What became of the heads between `before` and `after`.

    Where the pairs of either can't be resampled nothing is called, and p_value, inclusion, null and
    the ends of all estimates are NaN.

    masks: the raw sets, bool [A] by COUNTS.  sizes: of them, as they are.  null: by CHANGES, the
    count that two resamples of `before` give, as mean and 97.5 % point.  effect,
    effect_low, effect_high: [A].
    """

    masks: dict[str, torch.Tensor]
    sizes: dict[str, Estimate]
    null: dict[str, tuple[float, float]]
    inclusion_before: torch.Tensor
    inclusion_after: torch.Tensor
    rank_correlation: Estimate
    effect: torch.Tensor
    effect_low: torch.Tensor
    effect_high: torch.Tensor

    def at(self, level: float) -> Change:
        """The same, called up to the level of a whole run."""
        return self if level == self.level else replace(self, level=level)

    @property
    def p_value(self) -> torch.Tensor:
        """Of each head's change: [A]."""
        return self.evidence.p_value

    @cached_property
    def called(self) -> dict[str, torch.Tensor]:
        """The called sets by CHANGES: bool [A]."""
        return {name: self.masks[name] & self.found for name in CHANGES}

    @cached_property
    def counts(self) -> dict[str, Estimate]:
        """Heads in the raw sets by COUNTS; what is not called may be noise: see the top."""
        found = dict(self.sizes)
        for name in CHANGES:
            found[name] = down_to(found[name], float(self.called[name].sum()))
        found["retained"] = _up_to(found["retained"], self.union - float(self.found.sum()))
        return found


@dataclass(frozen=True)
class Members:
    """Memberships with eight heads a byte: uint8 [rows, bytes]; counts of them are fast."""

    packed: np.ndarray

    @classmethod
    def of(cls, inside: torch.Tensor) -> Members:
        """Of bool [rows, A]."""
        return cls(np.packbits(inside.numpy(), axis=1))

    def __and__(self, other: Members) -> Members:
        return Members(self.packed & other.packed)

    def __or__(self, other: Members) -> Members:
        return Members(self.packed | other.packed)

    def without(self, other: Members) -> Members:
        """Those that are not in the other."""
        return Members(self.packed & ~other.packed)

    @property
    def neighbours(self) -> tuple[Members, Members]:
        """The resamples, and the one before each."""
        return Members(self.packed[1:]), Members(np.roll(self.packed[1:], 1, 0))

    @cached_property
    def sizes(self) -> torch.Tensor:
        """Heads in each row: float64 [rows]."""
        return torch.from_numpy(np.bitwise_count(self.packed).sum(1, dtype=np.float64))

    def unpacked(self, n_heads: int, row: int = 0) -> torch.Tensor:
        """One row: bool [A]."""
        return torch.from_numpy(np.unpackbits(self.packed[row], count=n_heads).astype(bool))


def set_sizes(before: Members, after: Members) -> dict[str, torch.Tensor]:
    """How many heads the raw sets have, float64 [rows] by COUNTS."""
    common = (before & after).sizes
    return {
        "in_circuit": after.sizes,
        "emergent": after.sizes - common,
        "retained": common,
        "pruned": before.sizes - common,
    }


def likeness_of(a: Members, b: Members) -> torch.Tensor:
    """`jaccard` of packed memberships: float64 [rows]."""
    union = (a | b).sizes
    return torch.where(union > 0, (a & b).sizes / union.clamp_min(1), 1.0)


def sets(before: torch.Tensor, after: torch.Tensor) -> dict[str, torch.Tensor]:
    """The raw sets of two memberships [..., A], by COUNTS."""
    return {
        "in_circuit": after,
        "emergent": after & ~before,
        "retained": after & before,
        "pruned": before & ~after,
    }


def jaccard(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Overlap of memberships [..., M] -> [...]; 1 for two empty sets."""
    union = (a | b).sum(-1).double()
    return torch.where(union > 0, (a & b).sum(-1) / union.clamp_min(1), 1.0)


def null_turnover(members: Members) -> float:
    """Mean turnover between two resamples of one checkpoint: [1+R] rows."""
    return float((1 - likeness_of(*members.neighbours)).mean())  # neighbours: independent


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Weighted overlap of importances [..., A] -> [...]; 1 for two without any, as of `jaccard`."""
    most = torch.maximum(a, b).sum(-1)
    return torch.where(most == 0, 1.0, torch.minimum(a, b).sum(-1) / most.clamp_min(1e-12))


def effect(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """E in [-1, 1] of importances of equal shape."""
    return (after - before) / (after + before + 1e-6)


def evidence_of(before: Heads, after: Heads) -> Evidence:
    """The evidence of two checkpoints measured on the same pairs and resamples.

    Where further pairs tell more of one of them, its margins and states are those over all its
    pairs, and a head has to have changed by these as well.
    """
    changed = before.inside[0] != after.inside[0]
    if len(before.inside) > 1 and len(after.inside) > 1:
        before, after = before.wide or before, after.wide or after
        changed &= before.inside[0] != after.inside[0]
    p = torch.full(changed.shape, 1.0 if len(after.inside) > 1 else math.nan, dtype=torch.float64)
    held = torch.zeros_like(p)
    # the others have p = 1 and are not called; two columns, as one is summed in another order
    few = changed.nonzero().flatten()
    if not len(few) or len(after.inside) == 1:
        return Evidence(p, held)
    some = few if len(few) > 1 or len(p) == 1 else torch.cat([few, (few + 1) % len(p)])
    clusters = min(before.clusters, after.clusters)
    of_some = difference_p_values(before.margin(some), after.margin(some), clusters)
    p[few] = of_some[: len(few)]
    inside = [heads.inside.index_select(1, few) for heads in (before, after)]
    both = (inside[0] == inside[0][0]).logical_and_(inside[1] == inside[1][0])
    held[few] = both[1:].double().mean(0)
    return Evidence(p, held)


def compare(before: Heads, after: Heads, q: float = FDR) -> Change:
    """Everything about the heads of two checkpoints measured on the same pairs and resamples.

    If the pairs of one can't be resampled, the resamples of the other say nothing of a change.
    Heads are called at rate q over these two; `Change.at` takes the level of a run.

    Raises:
        ValueError: the tables differ in shape, so they are not of the same graph and resamples.
    """
    before, after = _comparable(before, after)
    a, b = before.members, after.members
    raw = sets(before.inside[0].clone(), after.inside[0].clone())
    n_heads = before.strength.shape[1]
    sizes, by_chance = set_sizes(a, b), set_sizes(*a.neighbours)
    null = {}
    for name in CHANGES:
        chance = by_chance[name]
        high = float(torch.quantile(chance, 0.975)) if len(chance) else math.nan
        null[name] = (float(chance.mean()), high)
    # what each head gained or lost
    effects = effect(before.importance, after.importance)
    correlation = torch.from_numpy(rank_correlation(before.ranks, after.ranks))
    low, high = percentile(effects)
    return Change(
        **vars(_turn(before, after, q)),
        masks=raw,
        sizes={name: estimate_of_set(sizes[name], 0, n_heads) for name in COUNTS},
        null=null,
        inclusion_before=before.inclusion,
        inclusion_after=after.inclusion,
        rank_correlation=estimate(correlation),
        effect=effects[0].clone(),  # and not a view that keeps the resamples
        effect_low=low,
        effect_high=high,
    )


def turn(before: Heads, after: Heads, q: float = FDR) -> Turn:
    """What `compare` says of the two as wholes, and nothing of single heads, which takes longer.

    Raises:
        ValueError: as `compare`.
    """
    return _turn(*_comparable(before, after), q)


def _comparable(before: Heads, after: Heads) -> tuple[Heads, Heads]:
    if 1 in (len(before.strength), len(after.strength)):
        before, after = before.bare, after.bare
    if before.strength.shape != after.strength.shape:
        raise ValueError(
            f"tables of {tuple(before.strength.shape)} and {tuple(after.strength.shape)} resamples "
            "x heads can't be compared; track both with the same settings"
        )
    return before, after


def _turn(before: Heads, after: Heads, q: float) -> Turn:
    a, b = before.members, after.members
    evidence = evidence_of(before, after)
    return Turn(
        likeness=estimate_of_set(likeness_of(a, b), 0, 1),
        union=float((a | b).sizes[0]),
        null_turnover=(null_turnover(a) + null_turnover(b)) / 2,
        overlap=estimate_of_set(overlap(before.importance, after.importance), 0, 1),
        evidence=evidence,
        level=level_of([evidence], q),
    )


def down_to(count: Estimate, called: float) -> Estimate:
    """A number of changes whose interval reaches down to those that are called."""
    return Estimate(count.value, min(count.low, called), count.high)  # NaN, if it is first, stays


def _up_to(number: Estimate, without_noise: float) -> Estimate:
    return Estimate(number.value, number.low, max(number.high, without_noise))

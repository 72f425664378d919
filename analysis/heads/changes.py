"""How the heads of one checkpoint's circuit differ from those of another: all definitions.

Against the base checkpoint a head is (arXiv 2509.25758)

    emergent   in the checkpoint's circuit, not in the base's
    retained   in both
    pruned     in the base's circuit, not in the checkpoint's

These are differences of thresholded sets of noisy scores: measured again on other pairs they would
come out otherwise. So there are two sets of each. The *raw* ones are the sets above. A head is
*called* emergent or pruned only if it is so in the raw sets and

    its inclusion differs from the base beyond a false-discovery rate: the log-margin by which it is
    in or out (log entry strength - log threshold, analysis/heads/widest_paths.py) is compared
    between the two, studentised by the paired bootstrap, Benjamini-Hochberg over all heads (heads
    whose raw state has not changed have p = 1); and it is in that state in at least STABILITY of
    the resamples.

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

Shape legend: R resamples, L layers, H heads; row 0 is the estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from analysis.intervals import (
    Estimate,
    difference_p_values,
    discoveries,
    estimate,
    estimate_of_set,
    percentile,
    spearman,
)

COUNTS = ("in_circuit", "emergent", "retained", "pruned")
CHANGES = ("emergent", "pruned")
STABILITY = 0.8
FDR = 0.05
HYSTERESIS = 2  # checkpoints in a row that settle a call (trajectories/trajectory.py)
_FLOOR = 1e-6  # of the threshold: weaker heads all have the same margin


@dataclass(frozen=True)
class Heads:
    """The heads of one checkpoint under one selection, with resamples: [1+R, L * H] each.

    strength and threshold ([1+R]) decide; importance is I of the module's docstring. R is 0 where
    the pairs can't be resampled (analysis/intervals.py).
    """

    strength: torch.Tensor
    threshold: torch.Tensor
    importance: torch.Tensor
    n_pairs: int

    @property
    def inside(self) -> torch.Tensor:
        """Membership: bool [1+R, L * H]."""
        return (self.strength >= self.threshold[:, None]) & (self.strength > 0)

    @property
    def bare(self) -> Heads:
        """The same without resamples."""
        rows = (self.strength[:1], self.threshold[:1], self.importance[:1])
        return Heads(*rows, self.n_pairs)

    @property
    def margin(self) -> torch.Tensor:
        """Log entry strength less log threshold, at least 0 for the heads inside: [1+R, L * H]."""
        cut = self.threshold[:, None].double()
        cut = torch.where(cut > 0, cut, torch.finfo(torch.float32).tiny)
        ratio = (self.strength.double() / cut).clamp(_FLOOR, 1 / _FLOOR)
        return ratio.log()

    @property
    def inclusion(self) -> torch.Tensor:
        """Share of the resamples in which a head is in the circuit: [L * H]; NaN without any."""
        return self.inside[1:].double().mean(0)


@dataclass(frozen=True)
class Change:
    """What became of the heads between `before` and `after`.

    Where the pairs of either can't be resampled nothing is called, and p_value, inclusion, null and
    the ends of all estimates are NaN.

    masks: the raw sets, bool [L * H] by COUNTS.  called: by CHANGES.  null: by CHANGES, the count
    that two resamples of `before` alone give, as mean and 97.5 % point.  p_value, effect,
    effect_low, effect_high: [L * H].
    """

    masks: dict[str, torch.Tensor]
    called: dict[str, torch.Tensor]
    counts: dict[str, Estimate]
    null: dict[str, tuple[float, float]]
    p_value: torch.Tensor
    inclusion_before: torch.Tensor
    inclusion_after: torch.Tensor
    jaccard: Estimate
    turnover: Estimate
    null_turnover: float
    overlap: Estimate
    rank_correlation: Estimate
    effect: torch.Tensor
    effect_low: torch.Tensor
    effect_high: torch.Tensor

    @property
    def is_tested(self) -> bool:
        """Whether the pairs could be resampled."""
        return not math.isnan(self.null_turnover)

    @property
    def excess_turnover(self) -> Estimate:
        """Turnover beyond what resampling the pairs gives at one checkpoint."""
        return self.turnover.minus(self.null_turnover)


def sets(before: torch.Tensor, after: torch.Tensor) -> dict[str, torch.Tensor]:
    """The raw sets of two memberships [..., L * H], by COUNTS."""
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


def null_turnover(inside: torch.Tensor) -> float:
    """Mean turnover between two resamples of one checkpoint: bool [1+R, L * H]."""
    return float((1 - jaccard(inside[1:], inside[1:].roll(1, 0))).mean())  # neighbours: independent


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Weighted overlap of importances [..., L * H] -> [...]."""
    return torch.minimum(a, b).sum(-1) / torch.maximum(a, b).sum(-1).clamp_min(1e-12)


def effect(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """E in [-1, 1] of importances of equal shape."""
    return (after - before) / (after + before + 1e-6)


def calls(before: Heads, after: Heads, q: float = FDR) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads whose change is called, bool [L * H], and their p-values (see the top)."""
    inside = before.inside, after.inside
    changed = inside[0][0] != inside[1][0]
    p = difference_p_values(before.margin, after.margin, min(before.n_pairs, after.n_pairs))
    p = torch.where(changed | p.isnan(), p, torch.ones_like(p))
    held = (inside[0] == inside[0][0]) & (inside[1] == inside[1][0])
    return discoveries(p, q) & (held[1:].double().mean(0) >= STABILITY), p


def compare(before: Heads, after: Heads, q: float = FDR) -> Change:
    """Everything about the heads of two checkpoints measured on the same pairs and resamples.

    If the pairs of one can't be resampled, the resamples of the other say nothing of a change.

    Raises:
        ValueError: the tables differ in shape, so they are not of the same graph and resamples.
    """
    if 1 in (len(before.strength), len(after.strength)):
        before, after = before.bare, after.bare
    if before.strength.shape != after.strength.shape:
        raise ValueError(
            f"tables of {tuple(before.strength.shape)} and {tuple(after.strength.shape)} resamples "
            "x heads can't be compared; track both with the same settings"
        )
    # the raw sets and those that are called
    a, b = before.inside, after.inside
    found, p = calls(before, after, q)
    masks = sets(a, b)
    raw = {name: mask[0] for name, mask in masks.items()}
    called = {name: raw[name] & found for name in CHANGES}
    # counts: what is not called may be noise, so intervals reach down (or up) to what is called
    counts, null = {}, {}
    for name in COUNTS:
        counts[name] = estimate_of_set(masks[name].sum(1).double(), 0, a.shape[1])
    for name in CHANGES:
        counts[name] = _down_to(counts[name], float(called[name].sum()))
        chance = sets(a[1:], a[1:].roll(1, 0))[name].sum(1).double()
        high = float(torch.quantile(chance, 0.975)) if len(chance) else math.nan
        null[name] = (float(chance.mean()), high)
    union, n_called = float((a[0] | b[0]).sum()), float(found.sum())
    counts["retained"] = _up_to(counts["retained"], union - n_called)
    # how alike the two are as a whole, and what each head gained or lost
    likeness = _up_to(estimate_of_set(jaccard(a, b), 0, 1), 1 - n_called / max(1, union))
    turnover = Estimate(1 - likeness.value, 1 - likeness.high, 1 - likeness.low)
    effects = effect(before.importance, after.importance)
    correlation = torch.from_numpy(spearman(before.strength.numpy(), after.strength.numpy()))
    low, high = percentile(effects)
    return Change(
        masks=raw,
        called=called,
        counts=counts,
        null=null,
        p_value=p,
        inclusion_before=before.inclusion,
        inclusion_after=after.inclusion,
        jaccard=likeness,
        turnover=turnover,
        null_turnover=(null_turnover(a) + null_turnover(b)) / 2,
        overlap=estimate_of_set(overlap(before.importance, after.importance), 0, 1),
        rank_correlation=estimate(correlation),
        effect=effects[0],
        effect_low=low,
        effect_high=high,
    )


def _down_to(count: Estimate, called: float) -> Estimate:
    return Estimate(count.value, min(count.low, called), count.high)  # NaN, if it is first, stays


def _up_to(number: Estimate, without_noise: float) -> Estimate:
    return Estimate(number.value, number.low, max(number.high, without_noise))

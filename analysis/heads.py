"""How the heads of a checkpoint's circuit differ from those of the base model.

    emergent   in the checkpoint's circuit, not in the base's     (arXiv 2509.25758)
    retained   in both
    pruned     in the base's circuit, not in the checkpoint's

These are differences of thresholded sets, so each count comes with two things. The interval is a
percentile bootstrap: the pairs are resampled with replacement, the same resample for base and
checkpoint, and both circuits are selected anew. The control (`null`) is the count that two
independent resamples of the base alone give, that is, what appears when nothing has changed; a
count whose interval does not clear it can't be told from noise. Set differences are biased upwards
under resampling, which the control shares. All checkpoints of a run use the same resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analysis.circuits import head_mask, select_edges
from analysis.graph import Graph

COUNTS = ("in_circuit", "emergent", "retained", "pruned")
INTERVAL = (0.025, 0.975)


def bootstrap_heads(
    graph: Graph, per_pair: torch.Tensor, budget: int, resamples: int, seed: int
) -> torch.Tensor:
    """Heads of the circuits of resampled pairs: per_pair [pairs, E] -> bool [resamples, L * H].

    The r-th resample is the same for every checkpoint that has the same number of pairs and seed.
    """
    generator = torch.Generator().manual_seed(seed)
    n_pairs = len(per_pair)
    drawn = torch.randint(n_pairs, (resamples, n_pairs), generator=generator)
    weights = torch.zeros(resamples, n_pairs, dtype=per_pair.dtype)
    weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=per_pair.dtype))
    chunks = (weights / n_pairs).split(32)  # bounds memory at 32 vectors of E
    return torch.cat([head_mask(graph, select_edges(graph, w @ per_pair, budget)) for w in chunks])


@dataclass(frozen=True)
class Estimate:
    """A count, its 95 % bootstrap interval, and the mean and 97.5 % point of its null."""

    value: int
    low: float
    high: float
    null_mean: float | None = None
    null_high: float | None = None


@dataclass(frozen=True)
class HeadStates:
    """Heads of one checkpoint against the base: masks bool [L * H] and the counts of each state.

    base_inclusion, inclusion: share of resamples in which a head is in the circuit, [L * H].
    """

    masks: dict[str, torch.Tensor]
    counts: dict[str, Estimate]
    base_inclusion: torch.Tensor
    inclusion: torch.Tensor


def _states(base: torch.Tensor, now: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "in_circuit": now,
        "emergent": now & ~base,
        "retained": now & base,
        "pruned": base & ~now,
    }


def head_states(
    base: torch.Tensor, now: torch.Tensor, base_resampled: torch.Tensor, now_resampled: torch.Tensor
) -> HeadStates:
    """States and counts from head masks [L * H] and their bootstrap resamples [R, L * H].

    At the base itself emergent and pruned are 0 by definition, interval included.
    """
    masks = _states(base, now)
    resampled = _states(base_resampled, now_resampled)
    null = _states(base_resampled, base_resampled.roll(1, 0))  # neighbours are independent draws
    counts = {}
    for name in COUNTS:
        values = resampled[name].sum(1).double()
        low, high = torch.quantile(values, torch.tensor(INTERVAL, dtype=values.dtype)).tolist()
        estimate = Estimate(int(masks[name].sum()), low, high)
        if name in ("emergent", "pruned"):
            chance = null[name].sum(1).double()
            high_null = float(torch.quantile(chance, INTERVAL[1]))
            estimate = Estimate(estimate.value, low, high, float(chance.mean()), high_null)
        counts[name] = estimate
    return HeadStates(
        masks=masks,
        counts=counts,
        base_inclusion=base_resampled.double().mean(0),
        inclusion=now_resampled.double().mean(0),
    )

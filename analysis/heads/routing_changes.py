"""How the routing of a mixture of experts differs between two checkpoints: all definitions.

Over all tokens of the pairs' clean prompts,

    load      share of the tokens that an expert is given; adds up to k over the experts of a layer
    changed   share of the tokens whose top experts are another set than at the base

with 95 % bootstrap intervals over pairs, by the resamples of the heads (analysis/heads/resampling):
a resample has the tokens of its pairs, so long prompts count for more. Where scores of a router
tie, a token counts as changed if the tie falls out otherwise.

Shape legend: P pairs, N tokens, R resamples, E experts; row 0 is the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analysis.heads.experts import Experts
from analysis.intervals import Estimate, estimate, percentile, resamples_of


@dataclass(frozen=True)
class RoutingChange:
    """The routing of one checkpoint, against the base.

    load: of each layer, float64 [3, E]: value, low and high.  changed: of each layer that both
    have; NaN ends where the prompts can't be resampled.  overall: of all these layers together;
    None if there are none.
    """

    load: dict[int, torch.Tensor]
    changed: dict[int, Estimate]
    overall: Estimate | None

    def busiest(self, layer: int) -> tuple[int, Estimate]:
        """The expert with the largest load, and that."""
        expert = int(self.load[layer][0].argmax())
        return expert, Estimate(*self.load[layer][:, expert].tolist())

    def unused(self, layer: int) -> int:
        """Experts that no token is given to."""
        return int((self.load[layer][0] == 0).sum())


def compare_routing(base: Experts | None, now: Experts, weights: torch.Tensor) -> RoutingChange:
    """The routing of a checkpoint, and how it differs from the base's, measured on the same pairs.

    base: None if it was not measured there. weights: of the pairs in each resample, [1+R, P]
    (`analysis.heads.resampling.resample_weights`).
    """
    weights = resamples_of(weights, now.n_distinct).double()
    tokens = weights @ now.lengths.double()
    load, changed = {}, {}
    for layer in now.layers:
        share = weights @ _given(now, layer) / tokens[:, None]
        load[layer] = torch.cat([share[:1], percentile(share)])
        if base is not None and base.layers.get(layer) == now.layers[layer]:
            changed[layer] = weights @ _differ(base, now, layer) / tokens
    overall = estimate(torch.stack(list(changed.values())).mean(0)) if changed else None
    return RoutingChange(load, {layer: estimate(x) for layer, x in changed.items()}, overall)


def _pair_of(experts: Experts) -> torch.Tensor:
    """The pair of each token: int64 [N]."""
    return torch.arange(len(experts.lengths)).repeat_interleave(experts.lengths)


def _given(experts: Experts, layer: int) -> torch.Tensor:
    """Tokens of each pair that each expert is given: float64 [P, E]."""
    pairs, chosen = _pair_of(experts)[:, None], experts.chosen(layer)
    counts = torch.zeros(len(experts.lengths), experts.layers[layer].experts, dtype=torch.float64)
    return counts.index_put_((pairs, chosen), counts.new_ones(()), accumulate=True)


def _differ(base: Experts, now: Experts, layer: int) -> torch.Tensor:
    """Tokens of each pair whose set of experts is another one: float64 [P]."""
    other = (base.chosen(layer) != now.chosen(layer)).any(1).double()
    return torch.zeros(len(now.lengths), dtype=torch.float64).index_add_(0, _pair_of(now), other)

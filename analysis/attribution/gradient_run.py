"""One forward and backward pass to what enters the first layer."""

from __future__ import annotations

import torch

from analysis.attribution.metrics import Metric
from analysis.attribution.recomputation import Layers, same_gradient
from analysis.models.anatomy import Anatomy
from analysis.models.forward import run
from analysis.models.hooks import Hooks
from analysis.prompts.pairs import Batch, Pair, Pairs, collate

CHECKED_TOKENS = 8


def gradient_run(
    parts: Anatomy,
    metric: Metric,
    batch: Batch,
    hooks: Hooks,
    ids: torch.Tensor,
    embedding: torch.Tensor | None,
    clean_logits: torch.Tensor | None,
    recompute: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits [N, V], and the gradient of the metric at what entered the first layer [B, T, d].

    That is the `embedding` [B, T, d], or the tokens' own for None. Without `clean_logits` the run
    is the clean one. `recompute`: each layer is run twice, so that what one keeps for its gradient
    goes before the next one's comes (analysis/attribution/recomputation.py).
    """
    leaves: list[torch.Tensor] = []

    def enter(x: torch.Tensor) -> torch.Tensor:
        if not leaves:  # the second time the first layer is given what is a leaf already
            leaves.append((x if embedding is None else embedding).detach().requires_grad_())
            return leaves[0]
        return x

    def loss(logits: torch.Tensor) -> torch.Tensor:
        reference = logits.detach() if clean_logits is None else clean_logits
        return metric(logits, reference, batch).sum()

    hooks.input(parts.layers[0], enter)
    if not recompute:
        logits = run(parts, ids, batch)
        [gradient] = torch.autograd.grad(loss(logits), leaves)
        return logits.detach(), gradient
    layers = Layers(parts)
    with layers.watched():
        logits = run(parts, ids, batch)
    layers.back(loss(logits))
    [leaf] = leaves
    assert leaf.grad is not None
    return logits.detach(), leaf.grad


def check_recomputed(parts: Anatomy, pairs: Pairs) -> None:
    """That the gradient of a model is the same with its layers run twice, on a few tokens.

    Raises:
        Unsupported: it is not, or a layer can't be run twice.
    """
    ids = pairs[0].clean_ids[:CHECKED_TOKENS]
    batch = collate([Pair(ids, ids)]).to(parts.device)

    def some(logits: torch.Tensor, clean_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return logits.square().sum(-1)

    found = []
    for recompute in (False, True):
        with Hooks() as hooks, torch.enable_grad():
            of_run = gradient_run(parts, some, batch, hooks, batch.clean, None, None, recompute)
        found.append(of_run[1])
    same_gradient(*found)

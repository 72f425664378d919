"""One forward and backward pass to what enters the first layer."""

from __future__ import annotations

import torch

from analysis.attribution.metrics import Metric
from analysis.models.anatomy import Anatomy
from analysis.models.forward import run
from analysis.models.hooks import Hooks
from analysis.prompts.pairs import Batch


def gradient_run(
    parts: Anatomy,
    metric: Metric,
    batch: Batch,
    hooks: Hooks,
    ids: torch.Tensor,
    embedding: torch.Tensor | None,
    clean_logits: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits [N, V], and the gradient of the metric at what entered the first layer [B, T, d].

    That is the `embedding` [B, T, d], or the tokens' own for None. Without `clean_logits` the run
    is the clean one.
    """
    leaves = []

    def enter(x: torch.Tensor) -> torch.Tensor:
        leaves.append((x if embedding is None else embedding).detach().requires_grad_())
        return leaves[0]

    hooks.input(parts.layers[0], enter)
    logits = run(parts, ids, batch)
    reference = logits.detach() if clean_logits is None else clean_logits
    [gradient] = torch.autograd.grad(metric(logits, reference, batch).sum(), leaves)
    return logits.detach(), gradient

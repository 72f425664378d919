"""How much of the metric's change the path integral of EAP-IG-inputs misses, without the edges.

The sum of the scores of all edges out of `input` is the integral along the embeddings, so the gap
(`EdgeScores.completeness_gap`) needs the gradient at the embeddings only: the passes of the model,
and nothing of the sums and contractions. A mixture of experts has one gap with its routing free,
which jumps and doesn't close, and one with its routing frozen, which does.
"""

from __future__ import annotations

import torch
from torch import nn

from analysis.attribution.choosing import AUTO, recomputes
from analysis.attribution.gradient_run import gradient_run
from analysis.attribution.metrics import Metric, metric_named
from analysis.attribution.quadrature import path_points
from analysis.detection.detect import anatomy
from analysis.models.anatomy import Anatomy
from analysis.models.forward import run
from analysis.models.hooks import Hooks
from analysis.models.linear import wide
from analysis.models.preserve import preserved
from analysis.models.routing import Routing
from analysis.prompts.pairs import Batch, Pairs


def completeness_gap(
    model: nn.Module,
    pairs: Pairs,
    metric: str = "kl",
    ig_steps: int = 5,
    quadrature: str = "left",
    batch_size: int = 8,
    routing: str = "free",
    recompute: bool | str = AUTO,
) -> float:
    """`EdgeScores.completeness_gap` of EAP-IG-inputs with these settings of `attribute`.

    Raises:
        ValueError: as `attribute` for an unsupported model.
    """
    parts, measure = anatomy(model), metric_named(metric)
    choices = Routing.of(parts) if routing == "frozen" else Routing([])
    points = path_points(quadrature, ig_steps)
    summed: list[torch.Tensor] = []
    change: list[torch.Tensor] = []
    with preserved(model):
        twice = recomputes(recompute, parts, pairs, batch_size, 0)
        for batch in pairs.batches(batch_size):
            of_batch = _of_batch(parts, batch.to(parts.device), measure, points, choices, twice)
            for total, found in zip((summed, change), of_batch, strict=True):
                total.append(found.cpu())
    expected = torch.cat(change).mean()
    gap = (torch.cat(summed).mean() - expected).abs() / expected.abs()
    return float(gap) if expected != 0 else float("inf")


def _of_batch(
    parts: Anatomy,
    batch: Batch,
    metric: Metric,
    points: list[tuple[float, float]],
    choices: Routing,
    twice: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The integral and the metric's change of each pair: [B] each."""
    with choices.recorded(), torch.no_grad():
        clean, clean_logits = _entering(parts, batch.clean, batch)
    with choices.held():
        with torch.no_grad():
            corrupted, logits = _entering(parts, batch.corrupted, batch)
        values = [metric(x, clean_logits, batch) for x in (logits, clean_logits)]
        difference = (wide(corrupted) - wide(clean)) * batch.mask[..., None]
        total = torch.zeros_like(values[0])
        for alpha, weight in points:
            x = torch.lerp(corrupted, clean, alpha)
            with Hooks() as hooks, torch.enable_grad():
                _, gradient = gradient_run(
                    parts, metric, batch, hooks, batch.clean, x, clean_logits, twice
                )
            total += weight * (wide(gradient) * difference).sum((1, 2))
    return total, values[0] - values[1]


def _entering(parts: Anatomy, ids: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What enters the first layer [B, T, d], and the logits [N, V]."""
    seen: list[torch.Tensor] = []
    with Hooks() as hooks:
        hooks.input(parts.layers[0], lambda x: seen.append(x.detach()))
        logits = run(parts, ids, batch)
    return seen[0], logits

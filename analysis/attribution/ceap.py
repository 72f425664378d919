"""CEAP: the conductance of every edge (Wu, Tonin and Cevher 2026, arXiv 2606.16920).

EAP-IG-inputs multiplies the mean gradient along the path with all of a source's change between the
two prompts. Conductance (Dhamdhere et al. 2018, arXiv 1805.12233) follows the source along the path
as well: with s_u(alpha) what u writes where the embedding is mixed with share alpha of the clean
one,

    score(u -> v) = sum over positions of
                    integral of  dM/d(input of v) . d s_u  from alpha = 1 to alpha = 0

so that the scores into any cut of the graph add up to the change of M, not only those out of the
embedding. The path is cut into segments as long as the weights of the quadrature's points, one
after the other, and each point's gradient meets the change of the sources over its segment
(Shrikumar et al. 2018, arXiv 1807.09946):

    sum over k of  dM/d(input of v) at point k . (s_u(start of k) - s_u(end of k))

Of `midpoint` the point lies in the middle of its segment, and the error is O(1/m^2); of `left` and
`right` at an end of it, O(1/m). One point at the middle is EAP-IG-inputs. In narrow dtypes the
changes over short segments carry the rounding of what is subtracted.

Cost: beside the passes of EAP-IG-inputs one forward pass for each inner end of a segment, and a
contraction for each point.

Shape legend: B pairs, T positions, S sources, D destinations, d residual width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch

from analysis.attribution.contraction import Contraction, source_differences
from analysis.attribution.gradients import GradientSums
from analysis.models.anatomy import Anatomy
from analysis.models.forward import Sources, source_run
from analysis.models.hooks import Hooks
from analysis.models.linear import wide
from analysis.prompts.pairs import Batch

Backward = Callable[[Hooks, torch.Tensor], object]


def segments(points: list[tuple[float, float]]) -> list[tuple[float, float, float]]:
    """(start, point, end) of each segment between alpha 0 and alpha 1, of (alpha, weight).

    >>> segments([(0.25, 0.5), (0.75, 0.5)])
    [(0.0, 0.25, 0.5), (0.5, 0.75, 1.0)]
    """
    ends = [0.0]
    for _, weight in sorted(points):
        ends.append(ends[-1] + weight)
    ends[-1] = 1.0
    alphas = [alpha for alpha, _ in sorted(points)]
    return [(a, at, b) for at, (a, b) in zip(alphas, pairwise(ends), strict=True)]


def conductance(
    parts: Anatomy,
    batch: Batch,
    points: list[tuple[float, float]],
    ends: tuple[Sources, Sources],
    backward: Backward,
    tokens: int,
) -> torch.Tensor:
    """Scores of every edge on every pair: [B, S, D].

    Args:
        points: (alpha, weight) between the corrupted embedding (0) and the clean one (1).
        ends: what the sources write on the corrupted and on the clean prompt.
        backward: runs the clean tokens forward and backward from an embedding [B, T, d].
        tokens: in one block of the contraction.
    """
    corrupted, clean = ends
    sums, before = GradientSums(parts), corrupted
    scores = wide(clean.embedding).new_zeros(len(batch.clean), *parts.graph.edge_mask.shape)
    mixed = partial(torch.lerp, corrupted.embedding, clean.embedding)
    for _, point, end in segments(points):
        with sums.step(1.0) as hooks:
            backward(hooks, mixed(point))
        after = clean if end == 1.0 else _sources(parts, batch, mixed(end))
        kept = replace(after, zr=[*after.zr], nodes=[*after.nodes])  # the next segment starts there
        Contraction(parts, source_differences(before, kept, batch.mask), tokens).add(sums, scores)
        sums.clear()
        before = after
    return scores


def _sources(parts: Anatomy, batch: Batch, embedding: torch.Tensor) -> Sources:
    """What the sources write where this enters the first layer."""
    with Hooks() as hooks:
        hooks.input(parts.layers[0], lambda _: embedding)
        return source_run(parts, batch.clean, batch)[0]

"""What the attention patterns of heads score on prompts.

Scores of a head with pattern A[q, k] (the share of its attention that query q pays to key k) on one
prompt of T tokens x; reads are the positions where the pair's metric is read:

    previous_token  mean over t of A[t, t-1]                     (Olsson et al. 2022, 2209.11895)
    induction       mean over the t whose token has come before, not directly before, of the sum of
                    A[t, j+1] over x[j] = x[t], j < t-1          (prefix matching, same paper)
    operands, answer, think
                    mean over reads of the sum of A[read, k] over the tokens of that region
                    (analysis/prompts/regions.py), the read's own included; reads before them do not
                    count (attention to operands: Stolfo et al. 2023, 2305.15054)
    receiver        excess kurtosis over chunks j of the vertical score: the mean, over chunks
                    i >= j + 4, of the mean of A between the tokens of i and of j
                    (receiver heads: Bogdan et al. 2025, 2506.19143)

NaN where a prompt has no such tokens, and for heads that have no pattern (those of linear
attention) or none that is seen (analysis/heads/patterns.py); a kurtosis also where the vertical
scores do not differ.

Shape legend: B prompts, T positions, H heads of one output projection, A heads in all, S scores,
C chunks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import nn

from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.heads.pattern_rows import PatternRows
from analysis.heads.patterns import see_patterns
from analysis.models.anatomy import Anatomy, Heads
from analysis.models.preserve import preserved
from analysis.prompts.pairs import Pair, Pairs, collate
from analysis.prompts.regions import ENOUGH, GAP, Region

SUMS = ("previous_token", "induction", "operands", "answer", "think")
PATTERN_SCORES = (*SUMS, "receiver")

log = logging.getLogger(__name__)


def score_weights(pair: Pair, region: Region) -> torch.Tensor:
    """W for which a score is the sum of A * W: float64 [S, T, T]; all 0 where undefined.

    The last is that of `receiver`, whose vertical score of a chunk is the sum over its columns.
    """
    ids = torch.tensor(pair.clean_ids)
    length = len(ids)
    t = torch.arange(length)
    W = torch.zeros(len(PATTERN_SCORES), length, length, dtype=torch.float64)
    W[0, t[1:], t[:-1]] = 1.0
    same = (ids[:, None] == ids) & (t[:, None] - 1 > t)
    W[1, :, 1:] = same[:, :-1].double()
    reads = torch.tensor([position % length for position in pair.positions])
    for row, marked in enumerate((region.operands, region.answer, region.think), start=2):
        W[row, reads[:, None], torch.tensor(marked, dtype=torch.long)] = 1.0
    W[:-1] *= (t[:, None] >= t).double()
    asked = W[:-1].any(2).sum(1)
    W[:-1] /= asked.clamp_min(1)[:, None, None]
    W[-1] = _vertical_weights(torch.tensor(region.chunks))
    return W


def _vertical_weights(chunks: torch.Tensor) -> torch.Tensor:
    """[T] -> [T, T]"""
    count = int(chunks.max()) + 1
    sizes = torch.bincount(chunks[chunks >= 0], minlength=max(count, 1)).double()
    far = (chunks[:, None] - chunks >= GAP) & (chunks >= 0)
    each = sizes[chunks][:, None] * sizes[chunks] * (count - GAP - chunks).clamp_min(1)
    return far.double() / each


def excess_kurtosis(x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """m4 / m2^2 - 3 of the values where `inside`: [..., C] -> [...]; NaN if they do not differ."""
    n = inside.sum(-1)
    centred = (x - ((x * inside).sum(-1) / n)[..., None]) * inside
    m2, m4 = (centred.pow(power).sum(-1) / n for power in (2, 4))
    return m4 / m2.square() - 3


def score_patterns(
    A: torch.Tensor, W: torch.Tensor, chunks: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Scores of one layer: A [B, H, T, T], W [B, S, T, T] -> [B, S, H].

    chunks: [B, T], C - 1 for tokens in none. counts: chunks that have a vertical score, [B].
    """
    sums = torch.einsum("bhqk,bsqk->bsh", A, W[:, :-1])
    defined = W[:, :-1].flatten(2).any(2)
    sums = sums.masked_fill(~defined[..., None], torch.nan)
    received = torch.einsum("bhqk,bqk->bhk", A, W[:, -1])
    vertical = A.new_zeros(*A.shape[:2], int(chunks.max()) + 1)
    vertical.scatter_add_(2, chunks[:, None].expand_as(received), received)
    inside = torch.arange(vertical.shape[2], device=A.device) < counts[:, None]
    kurtosis = excess_kurtosis(vertical, inside[:, None])
    kurtosis = kurtosis.masked_fill((counts < ENOUGH)[:, None], torch.nan)
    return torch.cat([sums, kurtosis[:, None]], 1)


def pattern_scores(
    model: nn.Module,
    pairs: Pairs,
    regions: Sequence[Region],
    batch_size: int = 8,
    parts: Anatomy | None = None,
    kept: PatternRows | None = None,
) -> torch.Tensor:
    """PATTERN_SCORES of every head on every clean prompt: float64 [pairs, S, A], on the CPU.

    regions: of each of the pairs. parts: the model's anatomy, detected for None. kept: what is to
    keep the patterns too. The model is left as it was.

    Raises:
        ValueError: the architecture is not supported.
    """
    parts = proved(model, anatomy(model) if parts is None else parts)
    found = []
    unseen: list[str] = []
    with preserved(model):
        for start in range(0, len(pairs), batch_size):
            some = pairs[start : start + batch_size]
            ids = collate(some).clean.to(parts.device)
            weights = _batch_weights(some, regions[start : start + batch_size])
            keep = None if kept is None else partial(kept.see, start)
            scores, unseen = _scores(parts, ids, *weights, keep)
            found.append(scores)
    if unseen:
        _say_unseen(parts.graph.n_heads_total, *unseen)
    return torch.cat(found)


@cache
def _say_unseen(n_heads: int, *unseen: str) -> None:
    """Once, not at each checkpoint that is tracked: it is the same heads each time."""
    log.warning(
        "no attention pattern is seen of %d of %d heads (%s%s): what they attend to is undefined",
        *(len(unseen), n_heads),
        *(", ".join(unseen[:4]), ", ..." if len(unseen) > 4 else ""),
    )


def _scores(
    parts: Anatomy,
    ids: torch.Tensor,
    W: torch.Tensor,
    chunks: torch.Tensor,
    counts: torch.Tensor,
    keep: Callable[[int, torch.Tensor], None] | None,
) -> tuple[torch.Tensor, list[str]]:
    """[B, S, A], NaN where no pattern is seen, and the names of those heads.

    keep: is given the first head and the pattern of each output projection.
    """
    graph = parts.graph
    shape = len(ids), len(PATTERN_SCORES), graph.n_heads_total
    found, seen = torch.full(shape, torch.nan, dtype=torch.float64), torch.zeros(shape[2])

    def score(layer: int, heads: Heads, A: torch.Tensor) -> None:
        first = graph.head_index[layer, heads.first]
        own = slice(first, first + heads.n_heads)
        on = W.to(A), chunks.to(A.device), counts.to(A.device)
        found[..., own] = score_patterns(A, *on).double().cpu()
        seen[own] = 1
        if keep is not None:
            keep(first, A)

    see_patterns(parts, ids, score)
    return found, graph.names_of(seen == 0)


def _batch_weights(
    pairs: Sequence[Pair], regions: Sequence[Region]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W [B, S, T, T], chunks [B, T] and counts [B] of padded prompts, as in `score_patterns`."""
    length = max(len(pair.clean_ids) for pair in pairs)
    W = torch.zeros(len(pairs), len(PATTERN_SCORES), length, length, dtype=torch.float64)
    chunks = torch.full((len(pairs), length), -1)
    for row, (pair, region) in enumerate(zip(pairs, regions, strict=True)):
        own = len(pair.clean_ids)
        W[row, :, :own, :own] = score_weights(pair, region)
        chunks[row, :own] = torch.tensor(region.chunks)
    counts = (chunks.amax(1) + 1 - GAP).clamp_min(0)
    return W, torch.where(chunks < 0, chunks.max() + 1, chunks), counts

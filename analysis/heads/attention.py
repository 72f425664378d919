"""Attention patterns of a model, what they score on prompts, and the copying of its OV circuits.

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
    copying         sum(Re e) / sum(|e|) over the eigenvalues e of W_U W_OV W_E, from the weights
                    (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits); the
                    gains of the norms count, their scales, positions and biases do not

NaN where a prompt has no such tokens; a kurtosis also where the vertical scores do not differ.
Patterns come from the `eager` attention of the architecture, which computes what the faster ones do
and is switched on for the run alone.

Shape legend: B prompts, T positions, H heads, L layers, S scores, C chunks, e head width,
d residual width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from analysis.detection.detect import anatomy
from analysis.models.anatomy import Anatomy, linear_map, wide
from analysis.models.compat import attention_kind, set_attention_kind
from analysis.models.hooks import Hooks
from analysis.models.preserve import preserved
from analysis.prompts.pairs import Pair, Pairs, collate
from analysis.prompts.regions import ENOUGH, GAP, Region

SUMS = ("previous_token", "induction", "operands", "answer", "think")
PATTERN_SCORES = (*SUMS, "receiver")
ROWS = 16384  # of the vocabulary at a time


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Attention that computes its pattern, inside; the implementation of before, outside."""
    configs: dict[int, Any] = {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }
    before = {key: attention_kind(config) for key, config in configs.items()}
    try:
        for config in configs.values():
            set_attention_kind(config, "eager")
        yield
    finally:
        for key, config in configs.items():
            set_attention_kind(config, before[key])


@torch.no_grad()
def see_patterns(
    parts: Anatomy, ids: torch.Tensor, see: Callable[[int, torch.Tensor], None]
) -> None:
    """Run the model on right-padded ids [B, T]; `see(layer, pattern [B, H, T, T])`, in order.

    One layer's pattern is held at a time.
    """
    with eager(parts.causal_lm), Hooks() as hooks:
        for layer, block in enumerate(parts.blocks):
            hooks.returned(block.heads[0].attention, partial(_hand_over, see, layer))
        parts.decoder(input_ids=ids, use_cache=False)


def _hand_over(
    see: Callable[[int, torch.Tensor], None], layer: int, output: tuple[torch.Tensor, torch.Tensor]
) -> None:
    see(layer, wide(output[1]))


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
    model: nn.Module, pairs: Pairs, regions: Sequence[Region], batch_size: int = 8
) -> torch.Tensor:
    """PATTERN_SCORES of every head on every clean prompt: float64 [pairs, S, L * H], on the CPU.

    regions: of each of the pairs. The model is left as it was.

    Raises:
        ValueError: the architecture is not supported.
    """
    parts = anatomy(model)
    device = parts.device
    found = []
    with preserved(model):
        for start in range(0, len(pairs), batch_size):
            some = pairs[start : start + batch_size]
            ids = collate(some).clean.to(device)
            W, chunks, counts = _batch_weights(some, regions[start : start + batch_size])
            on = W.to(device, parts.dtype), chunks.to(device), counts.to(device)
            found.append(_scores(parts, ids, *on).double().cpu())
    return torch.cat(found)


def _scores(parts: Anatomy, ids: torch.Tensor, *on: torch.Tensor) -> torch.Tensor:
    """[B, S, L * H]; `on` is what `score_patterns` takes beside the pattern."""
    layers: list[torch.Tensor] = []
    see_patterns(parts, ids, lambda _, A: layers.append(score_patterns(A, *on)))
    return torch.stack(layers, 2).flatten(2)


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


@torch.no_grad()
def copying(model: nn.Module) -> torch.Tensor:
    """The copying score of every head: float64 [L * H], from -1 to 1, on the CPU.

    The eigenvalues of the [V, V] map that are not 0 are those of an [e, e] one,
    W_V diag(g) P E' U diag(f) P W_O, with g and f the gains of the layer's norm and the final one,
    and P the centring of a LayerNorm (else 1). A shared value head counts for each of its heads.
    """
    parts = anatomy(model)
    with preserved(model):
        middle = _embedding_to_unembedding(parts)
        found = []
        for block in parts.blocks:
            (heads,), (reading,) = block.heads, block.readings
            (value,) = (side for side in reading.sides if side.letter == "v")
            assert reading.norm is not None
            read = value.weight.repeat_interleave(heads.n_heads // value.width, 0)
            read = read * reading.norm.gain.to(read)
            ov = torch.einsum("hed,dc,hfc->hef", read, middle, heads.W_O)
            e = torch.linalg.eigvals(ov.double().cpu())
            found.append(e.real.sum(1) / e.abs().sum(1))
    return torch.cat(found)


def _embedding_to_unembedding(parts: Anatomy) -> torch.Tensor:
    """The residual stream's way through the vocabulary, P E' U diag(f) P: [d, d]."""
    U, norm = linear_map(parts.causal_lm.get_output_embeddings()), parts.final_norm
    first = parts.blocks[0].readings[0].norm
    assert norm is not None and first is not None
    total = torch.zeros(U.shape[1], U.shape[1], dtype=parts.dtype, device=U.device)
    for ids in torch.arange(len(U), device=U.device).split(ROWS):
        E = first.centre(wide(parts.embedding.forward(ids)))
        total += E.T @ norm.centre(wide(U[ids]) * norm.gain.to(U.device))
    return total

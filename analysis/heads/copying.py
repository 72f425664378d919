"""How much heads copy: the eigenvalues of their OV circuits through the vocabulary.

    copying = sum(Re e) / sum(|e|) over the eigenvalues e of W_U W_OV W_E, from the weights
    (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits); the gains of the norms
    count, their scales, positions, gates and biases do not

It is NaN where a head's values are not rows of one linear map of the stream that become the head's
output as they are (latents that all heads share, linear attention), and for every head of a model
in which other things than norms and factors stand between the token embedding and the first layer
or between the last layer and the output embedding.

Shape legend: H heads of one output projection, e head width, d residual width, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.models.anatomy import Anatomy, Block, Heads
from analysis.models.forward import run_decoder
from analysis.models.graph import LayerShape
from analysis.models.hooks import Hooks
from analysis.models.linear import linear_map, wide
from analysis.models.maps import Map
from analysis.models.preserve import preserved

ROWS = 16384  # of the vocabulary at a time
_PROBE = 8  # tokens


@torch.no_grad()
def copying(model: nn.Module, parts: Anatomy | None = None) -> torch.Tensor:
    """The copying score of every head: float64 [A], from -1 to 1 or NaN, on the CPU.

    The eigenvalues of the [V, V] map that are not 0 are those of an [e, e] one,
    W_V diag(g) P E' U diag(f) P' W_O, with g and f the gains of the norm before the values and of
    the final one, and P and P' the centring of a LayerNorm (else 1). A shared value head counts for
    each of its heads. parts: the model's anatomy, detected for None.
    """
    parts = proved(model, anatomy(model) if parts is None else parts)
    found = torch.full((parts.graph.n_heads_total,), torch.nan, dtype=torch.float64)
    with preserved(model):
        middle = _embedding_to_unembedding(parts)
        for block, heads in parts.heads if middle is not None else ():
            first = parts.graph.head_index[block.layer, heads.first]
            values = _values(block, heads, parts.graph.shapes[block.layer])
            if values is not None:
                own = slice(first, first + heads.n_heads)
                found[own] = _scores(values, middle, heads)
    return found


def _scores(values: torch.Tensor, middle: torch.Tensor | None, heads: Heads) -> torch.Tensor:
    """Of the maps [H, e, d] from the stream to the heads' values: float64 [H]."""
    assert middle is not None
    W_O = heads.W_O[:, : values.shape[1]].to(values)  # without a bias
    ov = torch.einsum("hed,dc,hfc->hef", values, middle.to(values), W_O)
    e = torch.linalg.eigvals(ov.double().cpu())
    return e.real.sum(1) / e.abs().sum(1)


def _values(block: Block, heads: Heads, shape: LayerShape) -> torch.Tensor | None:
    """The linear map from the stream to each head's values, [H, e, d], if there is one."""
    if heads.kind != "softmax" or heads.linear_after is not None:
        return None
    width = linear_map(heads.o_proj).shape[1] // heads.n_heads
    found: dict[int, torch.Tensor] = {}
    sides = [(reading, side) for reading in block.readings for side in reading.sides]
    for (reading, side), of in zip(sides, shape.sides, strict=True):
        if "v" not in side.letter:
            continue
        if of.of not in ("h", "kv") or side.n_rows != width or set(side.letter) - {"k", "v"}:
            return None
        if isinstance(reading.norm, Map):
            return None
        W = side.weight
        if reading.norm is not None:
            W = reading.norm.centre(W * reading.norm.gain.to(W))
        if reading.gauge is not None:
            W = W * reading.gauge.to(W)
        for row, feeds in zip(W, of.feeds, strict=True):
            for head in feeds:
                if head in found:
                    return None
                found[head] = row
    own = range(heads.first, heads.first + heads.n_heads)
    return torch.stack([found[head] for head in own]) if set(own) <= set(found) else None


def _embedding_to_unembedding(parts: Anatomy) -> torch.Tensor | None:
    """The residual stream's way through the vocabulary, E' U diag(f) P': [d, d], if it is that."""
    unembedding, norm = parts.causal_lm.get_output_embeddings(), parts.final_norm
    if unembedding is None or norm is None or not _plain_ends(parts, unembedding):
        return None
    U = linear_map(unembedding)
    total = torch.zeros(U.shape[1], U.shape[1], dtype=parts.dtype, device=U.device)
    tokens = min(len(U), parts.vocabulary)
    for ids in torch.arange(tokens, device=U.device).split(ROWS):
        E = wide(parts.embedding.forward(ids.to(parts.device))).to(U.device)
        total += E.T @ norm.centre(wide(U[ids]) * norm.gain.to(U.device))
    return total if parts.gauge is None else total * parts.gauge.to(total)


def _plain_ends(parts: Anatomy, unembedding: Any) -> bool:
    """Whether the stream begins as embedding and positions, and the logits are read off its norm.

    Up to a positive factor, on a few tokens.
    """
    count = min(parts.vocabulary, _PROBE)
    ids = torch.stack([torch.arange(count), torch.arange(count).flip(0)]).to(parts.device)
    seen: dict[str, torch.Tensor] = {}
    with Hooks() as hooks:
        for name, module, side in (
            ("embedding", parts.embedding, hooks.output),
            ("first", parts.layers[0], hooks.input),
            ("last", parts.layers[-1], hooks.output),
            ("read", unembedding, hooks.input),
        ):
            side(module, partial(_keep, seen, name))
        run_decoder(parts, ids, whole=True)
    if len(seen) < 4 or seen["embedding"].shape != seen["first"].shape:
        return False
    norm = parts.final_norm
    assert norm is not None
    out = norm.apply(seen["last"])
    out = out if norm.bias is None else out + norm.bias
    # positions are the same in both rows
    begins = (seen[name][0] - seen[name][1] for name in ("embedding", "first"))
    return _same_direction(*begins) and _same_direction(out, seen["read"])


def _keep(seen: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> None:
    seen[name] = wide(x.detach())


def _same_direction(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.numel() != b.numel():
        return False
    a, b = a.flatten().double().cpu(), b.flatten().double().cpu()
    return float(a @ b) > 0.999 * float(a.norm() * b.norm())

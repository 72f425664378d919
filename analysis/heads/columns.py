"""The columns of the output projections, head by head: what each head writes with.

A head's columns are its block of the projection, [d, e], in effect: with adapters, dequantised, and
with the gain of a norm behind it, as attribution has them (`Heads.W_O`). Two models' are compared
by their cosine, which is 1 where nothing has changed, and of the weights as they stand: a rotation
inside a head that its values undo is a change.

They are kept in float16, scaled to a largest entry of 1. Where all heads of a model would take more
than MOST bytes, a sketch of each is kept: its entries, under seeded signs, are summed in k buckets
(count sketch, Charikar et al. 2002). The cosine of two sketches differs from that of the blocks by
a standard error of (1 - cosine^2) / sqrt(k), and is 1 where nothing has changed too.

Shape legend: A heads in all, d residual width, e head width, n = d e entries of a block, k kept of
them, N kept of all heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.models.preserve import preserved

MOST = 64 * 2**20  # bytes of the columns of one model
SEED = 0  # of the signs and buckets, which are the same for all checkpoints
Z = 1.96  # standard errors to the ends of a 95 % interval


@dataclass(frozen=True)
class Columns:
    """What is kept of the heads' columns, head by head.

    values: float16 [N].  lengths: how many of them each head has, int32 [A].  sketched: whether
    these are sums of entries.
    """

    values: torch.Tensor
    lengths: torch.Tensor
    sketched: bool

    @property
    def heads(self) -> list[torch.Tensor]:
        """Of each head, float64."""
        return [x.double() for x in self.values.split(self.lengths.tolist())]


@torch.no_grad()
def columns(model: nn.Module) -> Columns:
    """What is kept of the columns of all heads of a model, which is left as it was."""
    parts = proved(model, anatomy(model))
    found: dict[int, torch.Tensor] = {}
    with preserved(model):
        sizes = [(heads.n_heads, heads.head_width * parts.width) for _, heads in parts.heads]
        total = sum(n_heads * n for n_heads, n in sizes)
        sketched = 2 * total > MOST
        most = MOST // (2 * parts.graph.n_heads_total) if sketched else total
        for block, heads in parts.heads:
            first = parts.graph.head_index[block.layer, heads.first]
            entries = heads.W_O[:, : heads.head_width].flatten(1)  # without a bias
            for head, kept in enumerate(sketch(entries, most)):
                found[first + head] = _scaled(kept)
    ordered = [found[head] for head in range(len(found))]
    lengths = torch.tensor([len(kept) for kept in ordered], dtype=torch.int32)
    return Columns(torch.cat(ordered), lengths, sketched)


def _scaled(kept: torch.Tensor) -> torch.Tensor:
    largest = kept.abs().max()
    return (kept / torch.where(largest > 0, largest, 1.0)).half().cpu()


def sketch(x: torch.Tensor, most: int) -> torch.Tensor:
    """Signed sums of entries in `most` buckets or fewer; as they are if they are as few.

    [..., n] -> [..., k]
    """
    n = x.shape[-1]
    if n <= most:
        return x
    each = -(-n // most)
    generator = torch.Generator().manual_seed(SEED)
    order = torch.randperm(n, generator=generator).to(x.device)
    signs = (1 - 2 * torch.randint(2, (n,), generator=generator)).to(x)
    padded = torch.nn.functional.pad((x * signs)[..., order], (0, -n % each))
    return padded.unflatten(-1, (-1, each)).sum(-1)


def alike(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cosine of x and y [..., n] -> [...], 1 to the last bit if they are equal.

    1 where both are 0, which is no change, and 0 where one is.
    """
    own, other, both = (x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)
    cosine = (both / (own * other).sqrt()).clamp(-1, 1)
    nothing = (own == 0) | (other == 0)
    return torch.where(nothing, ((own == 0) & (other == 0)).to(cosine), cosine)


def cosines(base: Columns, now: Columns) -> torch.Tensor:
    """Of each head's columns with the base's, and the ends of a 95 % interval: float64 [3, A].

    The ends are the cosine itself where nothing was sketched.

    Raises:
        ValueError: the blocks are of other sizes.
    """
    if not torch.equal(base.lengths, now.lengths) or base.sketched != now.sketched:
        raise ValueError("the heads of the base have output projections of another size")
    pairs = zip(base.heads, now.heads, strict=True)
    value = torch.stack([alike(a, b) for a, b in pairs])
    error = Z * (1 - value.square()) / base.lengths.double().sqrt() * float(base.sketched)
    return torch.stack([value, (value - error).clamp_min(-1), (value + error).clamp_max(1)])


def cosines_among(kept: Columns, layers: Sequence[int]) -> torch.Tensor:
    """Of different heads of one layer, each two once: float64 [M].

    layers: of the heads, [A].
    """
    found = [torch.empty(0, dtype=torch.float64)]
    heads = kept.heads
    for layer in dict.fromkeys(layers):
        own = [x for x, of in zip(heads, layers, strict=True) if of == layer]
        for length in {len(x) for x in own}:
            unit = torch.stack([x / x.norm().clamp_min(1e-300) for x in own if len(x) == length])
            found.append((unit @ unit.T)[tuple(torch.triu_indices(len(unit), len(unit), 1))])
    return torch.cat(found)

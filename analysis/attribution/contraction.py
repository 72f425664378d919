"""Source differences and summed gradients -> edge scores, in blocks of tokens.

    score(u -> v) = sum over positions of  D_u . G_v

D_u of a head is dz W_O[h] and G_v of a q, k or v head comes from its sums
(analysis/attribution/gradients.py); neither is stored for all tokens, sources and destinations at
once: a block of tokens is expanded, contracted by matrix products layer by layer, and dropped, so
that every head is expanded through W_O once per token. Sources and destinations are laid out so
that a product reads contiguous prefixes, in buffers that all blocks share:

    D  float [S, B, t, d]      all sources of the block
    G  float [1 + W, B, t, d]  one layer's destinations, the MLP of the layer below first

The sources between the MLP of the layer below and the next attention are in the product although
no edge goes from them to that MLP; whoever reads the scores masks them.

Shape legend: B pairs, T positions, t positions of one block, S sources, d residual width, H heads,
e head width, W attention destinations of a layer, m steps.
"""

from __future__ import annotations

import torch

from analysis.attribution.gradients import GradientSums, LayerSums
from analysis.models.anatomy import Anatomy, wide
from analysis.models.forward import Sources


class Contraction:
    """Contract the gradients of one batch with its source differences, `tokens` at a time."""

    def __init__(self, parts: Anatomy, differences: Sources, tokens: int) -> None:
        n_pairs, self.length, d = differences.embedding.shape
        self.parts, self.differences, self.tokens = parts, differences, min(tokens, self.length)
        new, graph = differences.embedding.new_empty, parts.graph
        self._D = new(graph.n_sources * n_pairs * self.tokens * d)
        self._G = new(graph.layer_width * n_pairs * self.tokens * d)

    def add(self, sums: GradientSums, scores: torch.Tensor) -> None:
        """Add the scores of what `sums` holds to `scores` [B, S, D]."""
        for start in range(0, self.length, self.tokens):
            self._add_block(sums, scores, slice(start, min(start + self.tokens, self.length)))

    def _add_block(self, sums: GradientSums, scores: torch.Tensor, block: slice) -> None:
        graph = self.parts.graph
        shape = self.differences.embedding[:, block].shape
        D = _front(self._D, graph.n_sources, *shape)
        expand_sources(self.parts, self.differences, block, D)
        below: torch.Tensor | None = None  # gradient at the MLP of the layer below
        first = 0
        for index, layer in enumerate(sums.layers):
            G = _front(self._G, graph.layer_width, *shape)
            attention_gradients(layer, block, G[1:])
            if index == 0:
                G = G[1:]
            else:
                G[0] = 0 if below is None else below[:, block]
            _product(scores, D[: graph.attention_sources(index)], G, first)
            first += len(G)
            below = layer.mlp
        G = _front(self._G, 2, *shape)
        for row, gradient in enumerate((below, sums.logits)):
            G[row] = 0 if gradient is None else gradient[:, block]
        _product(scores, D, G, first)


def block_bytes(parts: Anatomy, n_pairs: int) -> int:
    """Memory that one position of a block of pairs needs, in bytes."""
    gain = parts.final_norm.gain
    rows = parts.graph.n_sources + 2 * parts.graph.layer_width
    return rows * n_pairs * len(gain) * gain.element_size()


def expand_sources(parts: Anatomy, sources: Sources, block: slice, out: torch.Tensor) -> None:
    """Fill `out` [S, B, t, d] with what every source writes at the positions of a block."""
    graph = parts.graph
    out[0] = sources.embedding[:, block]
    for index, layer in enumerate(parts.blocks):
        first = graph.head_source(index, 0)
        z = sources.zr[index][:, block].flatten(0, 1).unflatten(-1, (graph.n_heads, -1))
        heads = out[first : first + graph.n_heads].flatten(1, 2)
        torch.bmm(z.transpose(0, 1), layer.W_O, out=heads)
        out[first + graph.n_heads] = sources.mlp[index][:, block]


def attention_gradients(layer: LayerSums, block: slice, out: torch.Tensor) -> None:
    """Fill `out` [W, B, t, d] with the gradients at a layer's q, k and v inputs.

    `gain * W^T (r g)`, one product for all heads of a side, plus the sum over steps of `c xc`.
    """
    if layer.g is None:  # no gradient reached this attention in any step
        out.zero_()
        return
    norm, g = layer.block.attention_norm, layer.g[:, block].flatten(0, 1)
    heads = out.flatten(1, 2)
    by_head = g.unflatten(-1, (layer.width, -1)).transpose(0, 1)
    for side in layer.block.sides:
        torch.bmm(by_head[side.columns], side.weight, out=heads[side.columns])
    x = torch.stack([norm.centre(wide(x[:, block])).flatten(0, 1) for x in layer.x], 1)
    c = torch.stack([c[:, block].flatten(0, 1) for c in layer.c], 2)
    torch.addcmul(torch.bmm(c, x).transpose(0, 1), heads, norm.gain, out=heads)
    if norm.centred:
        heads -= heads.mean(-1, keepdim=True)


def _front(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    """The first elements of a flat buffer, in a shape."""
    return buffer[: torch.Size(shape).numel()].view(shape)


def _product(scores: torch.Tensor, D: torch.Tensor, G: torch.Tensor, first: int) -> None:
    """Add D . G, pair by pair, to the rows of D's sources and the columns from `first` on."""
    products = torch.bmm(D.flatten(2).transpose(0, 1), G.flatten(2).permute(1, 2, 0))
    scores[:, : len(D), first : first + len(G)] += products

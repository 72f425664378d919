"""Source differences and summed gradients -> edge scores, in blocks of tokens.

    score(u -> v) = sum over positions of  D_u . G_v

D_u of a head is dz W_O[h] and G_v of an attention's destination comes from its sums
(analysis/attribution/gradients.py); neither is stored for all tokens, sources and destinations at
once: a block of tokens is expanded, contracted by matrix products, and dropped, so that every head
is expanded through W_O once per token. Sources stand in the order in which they are written, so
that a product reads a prefix of them, in buffers that all blocks share:

    D  float [S, B, t, d]   all sources of the block
    G  float [C, B, t, d]   neighbouring destinations, C of them, that read nearly the same sources

Destinations of which one reads one source more than the other go into one product; the score that
is too much there belongs to no edge, and whoever reads the scores masks it. An input of a node
below its highest one gets a product of its own.

Shape legend: B pairs, T positions, t positions of one block, S sources, d residual width, H heads,
e head width, W destinations of a reading, m steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from analysis.attribution.gradients import GradientSums, MapSums, ReadingSums
from analysis.models.anatomy import Anatomy, Norm
from analysis.models.forward import Sources
from analysis.models.graph import Graph
from analysis.models.linear import wide


@dataclass(frozen=True)
class _Piece:
    """Neighbouring destinations from `column` on, which read the first `reads` sources."""

    column: int
    width: int
    reads: int
    gradients: ReadingSums | torch.Tensor | None

    def fill(self, block: slice, out: torch.Tensor) -> None:
        """Their gradients [width, B, t, d] at the positions of a block."""
        if isinstance(self.gradients, ReadingSums):
            attention_gradients(self.gradients, block, out)
        elif self.gradients is None:
            out.zero_()
        else:
            out[0] = self.gradients[:, block]


class Contraction:
    """Contract the gradients of one batch with its source differences, `tokens` at a time."""

    def __init__(self, parts: Anatomy, differences: Sources, tokens: int) -> None:
        n_pairs, self.length, d = differences.embedding.shape
        self.parts, self.differences, self.tokens = parts, differences, min(tokens, self.length)
        new, graph = differences.embedding.new_empty, parts.graph
        self._D = new(graph.n_sources * n_pairs * self.tokens * d)
        self._G = new((graph.widest_layer + 1) * n_pairs * self.tokens * d)

    def add(self, sums: GradientSums, scores: torch.Tensor) -> None:
        """Add the scores of what `sums` holds to `scores` [B, S, D]."""
        together, apart = _products(self.parts, sums)
        for start in range(0, self.length, self.tokens):
            block = slice(start, min(start + self.tokens, self.length))
            shape = self.differences.embedding[:, block].shape
            D = _front(self._D, self.parts.graph.n_sources, *shape)
            expand_sources(self.parts, self.differences, block, D)
            for pieces in (*together, *([piece] for piece in apart)):
                G, first = _front(self._G, sum(piece.width for piece in pieces), *shape), 0
                for piece in pieces:
                    piece.fill(block, G[first : first + piece.width])
                    first += piece.width
                reads = max(piece.reads for piece in pieces)
                _product(scores, D[:reads], G, pieces[0].column)


def _products(parts: Anatomy, sums: GradientSums) -> tuple[list[list[_Piece]], list[_Piece]]:
    """What goes into one product each: all destinations in order, and the nodes' lower inputs."""
    together: list[list[_Piece]] = []
    apart: list[_Piece] = []
    for piece, is_lower in _pieces(parts, sums):
        if is_lower:
            apart.append(piece)
            continue
        last = together[-1] if together else []
        width = sum(other.width for other in last) + piece.width
        near = last and abs(last[-1].reads - piece.reads) <= 1
        if near and width <= parts.graph.widest_layer + 1:
            last.append(piece)
        else:
            together.append([piece])
    return together, apart


def _pieces(parts: Anatomy, sums: GradientSums) -> Iterator[tuple[_Piece, bool]]:
    """The destinations in order, with whether it is one of a node's lower inputs."""
    graph = parts.graph
    for layer, block in enumerate(parts.blocks):
        column = graph.columns(layer).start
        for of_reading in sums.readings[layer]:
            reads = graph.sources_at(layer, of_reading.reading.point)
            yield _Piece(column, of_reading.width, reads, of_reading), False
            column += of_reading.width
        for index, of_node in enumerate(sums.nodes[layer]):
            column, highest = (
                graph.node_column(layer, index),
                graph.shapes[layer].nodes[index].reads,
            )
            seen = False
            for tap, gradient in zip(block.nodes[index].taps, of_node.taps, strict=True):
                is_lower = seen or tap.point != max(highest)
                seen = seen or not is_lower
                reads = graph.sources_at(layer, tap.point)
                yield _Piece(column, 1, reads, gradient), is_lower
    yield _Piece(graph.n_destinations - 1, 1, graph.n_sources, sums.logits), False


def block_bytes(graph: Graph, n_pairs: int, stream: int) -> int:
    """Memory that one position of a block of pairs needs, in bytes; stream: bytes of a [d]."""
    rows = graph.n_sources + 2 * (graph.widest_layer + 1)
    return rows * n_pairs * stream


def expand_sources(parts: Anatomy, sources: Sources, block: slice, out: torch.Tensor) -> None:
    """Fill `out` [S, B, t, d] with what every source writes at the positions of a block."""
    graph = parts.graph
    out[0] = sources.embedding[:, block]
    for (layer, heads), zr in zip(parts.heads, sources.zr, strict=True):
        first = graph.head_source(layer.layer, heads.first)
        of_heads = out[first : first + heads.n_heads]
        if heads.linear_after is not None:
            of_heads.copy_(heads.written(zr)[:, :, block])
            continue
        z = zr[:, block].flatten(0, 1).unflatten(-1, (heads.n_heads, -1))
        torch.bmm(z.transpose(0, 1), heads.W_O, out=of_heads.flatten(1, 2))
    for (layer, index, _), written in zip(parts.nodes, sources.nodes, strict=True):
        out[graph.node_source(layer.layer, index)] = written[:, block]


def attention_gradients(sums: ReadingSums, block: slice, out: torch.Tensor) -> None:
    """Fill `out` [W, B, t, d] with the gradients of a reading's destinations at the stream.

    `gain * W^T (r g)`, one product for all destinations of a side, plus the sum over steps of
    `c xc`.
    """
    if isinstance(sums, MapSums):
        _map_gradients(sums, block, out)
        return
    if sums.g is None:  # no gradient reached this attention in any step
        out.zero_()
        return
    reading, g = sums.reading, sums.g[:, block].flatten(0, 1)
    heads = out.flatten(1, 2)
    for side, place in zip(reading.sides, sums.places, strict=True):
        by_head = g[:, place].unflatten(-1, (side.width, -1)).transpose(0, 1)
        torch.bmm(by_head, side.weight, out=heads[side.columns])
    norm = reading.norm
    if norm is not None:
        assert isinstance(norm, Norm)
        x = torch.stack([norm.centre(wide(x[:, block])).flatten(0, 1) for x in sums.x], 1)
        c = torch.stack([c[:, block].flatten(0, 1) for c in sums.c], 2)
        torch.addcmul(torch.bmm(c, x).transpose(0, 1), heads, norm.gain.to(heads), out=heads)
        if norm.centred:
            heads -= heads.mean(-1, keepdim=True)
    if reading.gauge is not None:
        heads *= reading.gauge.to(heads)


def _map_gradients(sums: MapSums, block: slice, out: torch.Tensor) -> None:
    """The same where no norm's form is known: the sums are at the stream already."""
    if sums.at is None:
        out.zero_()
        return
    out.copy_(sums.at[:, :, block])
    if sums.reading.gauge is not None:
        out *= sums.reading.gauge.to(out)


def _front(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    """The first elements of a flat buffer, in a shape."""
    return buffer[: torch.Size(shape).numel()].view(shape)


def _product(scores: torch.Tensor, D: torch.Tensor, G: torch.Tensor, first: int) -> None:
    """Add D . G, pair by pair, to the rows of D's sources and the columns from `first` on."""
    products = torch.bmm(D.flatten(2).transpose(0, 1), G.flatten(2).permute(1, 2, 0))
    scores[:, : len(D), first : first + len(G)] += products


def source_differences(corrupted: Sources, clean: Sources, mask: torch.Tensor) -> Sources:
    """Corrupted less clean in float32 or wider, 0 at padded positions; both are used up."""
    keep = mask[..., None]

    def less(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (wide(a) - wide(b)).mul_(keep)

    def each(a: list[torch.Tensor], b: list[torch.Tensor]) -> list[torch.Tensor]:
        return [less(a.pop(0), b.pop(0)) for _ in range(len(a))]

    embedding = less(corrupted.embedding, clean.embedding)
    return Sources(embedding, each(corrupted.zr, clean.zr), each(corrupted.nodes, clean.nodes))

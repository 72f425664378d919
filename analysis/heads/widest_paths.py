"""The entry strength of a head: the largest threshold at which it is still in the circuit.

Take all edges with |score| >= t and prune them (analysis/circuits/circuit.py). A head stays if such
edges make a path from the input to it, and a path from it to the logits. So for each head there is
a number s, its entry strength, with: the head is in the circuit exactly if s >= t. With w(u->v) the
|score| of an edge:

    into(v) = max over edges u->v of min(w(u->v), into(u)),       into(input)   = infinity
    out(u)  = max over edges u->v of min(w(u->v), out(v)),        out(logits)   = infinity
    s(head) = min(into(head), out(head)),    s(u->v) = min(w(u->v), into(u), out(v))

This is the widest-path problem (Pollack, Operations Research 8, 1960). One sweep up the layers and
one down solve it, for all thresholds at once. The circuit of the top n edges has as t the n-th
largest w. s is a margin too: log s - log t says how far a head is inside or outside. A key or value
head that query heads share feeds all of them.

Buffer layout: edges ordered by destination, then source, because the edges into the q, k and v
heads of a layer then are a block [destinations of the layer, sources below it] without a gap.
`by_destination` reorders scores [..., E] from the order of `graph.edges`.

Shape legend: R score vectors, E edges, S sources, L layers, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analysis.models.graph import Graph


def by_destination(graph: Graph, scores: torch.Tensor) -> torch.Tensor:
    """Scores [..., E] in the order that this module works in."""
    return scores[..., torch.argsort(graph.edges[:, 1], stable=True)]


@dataclass(frozen=True)
class HeadPaths:
    """What the circuits of R score vectors hold of each head: [R, L * H] each.

    strength: entry strength s.  importance: sum of `weight` over the circuit's edges out of the
    head, normalised to sum 1 over heads.  out_degree, in_degree: the circuit's edges out of and
    into the head; an edge into a shared key or value head counts for every living head it feeds.
    """

    strength: torch.Tensor
    importance: torch.Tensor
    out_degree: torch.Tensor
    in_degree: torch.Tensor


def _blocks(graph: Graph) -> list[tuple[int, int, int, int]]:
    """First edge, destinations and sources of each block, bottom up, and its layer."""
    found, start = [], 0
    for layer in range(graph.n_layers):
        for width, sources in (
            (graph.layer_width - 1, graph.attention_sources(layer)),
            (1, graph.mlp_sources(layer)),
        ):
            found.append((start, width, sources, layer))
            start += width * sources
    return [*found, (start, 1, graph.n_sources, graph.n_layers)]


def _view(values: torch.Tensor, block: tuple[int, int, int, int]) -> torch.Tensor:
    start, width, sources, _ = block
    return values[:, start : start + width * sources].view(len(values), width, sources)


def _into(graph: Graph, w: torch.Tensor) -> torch.Tensor:
    """Widest path from the input to each source: [R, S]."""
    into = w.new_full((len(w), graph.n_sources), torch.inf)
    heads, kv = graph.n_heads, graph.kv_width
    for block in _blocks(graph)[:-1]:
        _, width, below, _ = block
        reached = torch.minimum(_view(w, block), into[:, None, :below]).amax(2)
        if width == 1:
            into[:, below] = reached[:, 0]
            continue
        q, k, v = reached.split([heads, kv, kv], 1)
        shared = torch.maximum(k, v).repeat_interleave(heads // kv, 1)
        into[:, below : below + heads] = torch.maximum(q, shared)
    return into


def _destination_out(
    graph: Graph, out: torch.Tensor, block: tuple[int, int, int, int]
) -> torch.Tensor:
    """Widest path from each destination of a block to the logits: [R, destinations]."""
    _, width, below, layer = block
    if layer == graph.n_layers:
        return out.new_full((len(out), 1), torch.inf)
    if width == 1:
        return out[:, below : below + 1]
    q = out[:, below : below + graph.n_heads]
    group = q.unflatten(1, (graph.kv_width, -1)).amax(2)
    return torch.cat([q, group, group], 1)


def _out(graph: Graph, w: torch.Tensor) -> torch.Tensor:
    """Widest path from each source to the logits: [R, S]."""
    out = w.new_zeros(len(w), graph.n_sources)
    for block in reversed(_blocks(graph)):
        below, end = block[2], _destination_out(graph, out, block)
        best = torch.minimum(_view(w, block), end[:, :, None]).amax(1)
        out[:, :below] = torch.maximum(out[:, :below], best)
    return out


def head_strengths(graph: Graph, w: torch.Tensor) -> torch.Tensor:
    """Entry strength of every head: w >= 0 [R, E] by destination -> [R, L * H]."""
    return torch.minimum(_into(graph, w), _out(graph, w))[:, graph.head_sources]


def edge_strengths(graph: Graph, w: torch.Tensor) -> torch.Tensor:
    """Entry strength of every edge: w >= 0 [R, E] by destination -> [R, E] by destination."""
    into, out, strengths = _into(graph, w), _out(graph, w), torch.empty_like(w)
    for block in _blocks(graph):
        end = _destination_out(graph, out, block)
        ends = torch.minimum(into[:, None, : block[2]], end[:, :, None])
        torch.minimum(_view(w, block), ends, out=_view(strengths, block))
    return strengths


def head_paths(
    graph: Graph, w: torch.Tensor, weight: torch.Tensor, threshold: torch.Tensor
) -> HeadPaths:
    """Heads of the pruned circuits of the edges with w >= threshold, and what runs through them.

    w, weight: [R, E] by destination, w >= 0; threshold: [R]. Edges of strength 0 are never in.
    """
    into, out = _into(graph, w), _out(graph, w)
    floor = threshold.clamp_min(torch.finfo(w.dtype).tiny)
    total, n_out, n_in = (torch.zeros_like(into) for _ in range(3))
    heads, kv = graph.n_heads, graph.kv_width
    for block in _blocks(graph):
        _, width, below, layer = block
        end = _destination_out(graph, out, block) >= floor[:, None]
        alive = into[:, :below] >= floor[:, None]
        inside = (_view(w, block) >= floor[:, None, None]) & end[:, :, None] & alive[:, None]
        total[:, :below] += (_view(weight, block) * inside).sum(1)
        n_out[:, :below] += inside.sum(1)
        if layer < graph.n_layers and width > 1:
            q, k, v = inside.sum(2).split([heads, kv, kv], 1)
            n_in[:, below : below + heads] = q + (k + v).repeat_interleave(heads // kv, 1)
    strength = torch.minimum(into, out)
    n_in *= strength >= floor[:, None]
    share = total[:, graph.head_sources]
    return HeadPaths(
        strength=strength[:, graph.head_sources],
        importance=share / share.sum(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny),
        out_degree=n_out[:, graph.head_sources],
        in_degree=n_in[:, graph.head_sources],
    )

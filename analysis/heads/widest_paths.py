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

Buffer layout: edges ordered by destination, then source, because the edges into neighbouring
destinations that read the same sources then are a block [destinations, sources] without a gap.
`by_destination` reorders scores [..., E] from the order of `graph.edges`. Blocks are taken in the
order of how many sources they read, in which whatever a block reads has been reached before it.

Shape legend: R score vectors, E edges, S sources, A heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch

from analysis.models.graph import Graph


def by_destination(graph: Graph, scores: torch.Tensor) -> torch.Tensor:
    """Scores [..., E] in the order that this module works in."""
    return scores[..., torch.argsort(graph.edges[:, 1], stable=True)]


@dataclass(frozen=True)
class HeadPaths:
    """What the circuits of R score vectors hold of each head: [R, A] each.

    strength: entry strength s.  importance: sum of `weight` over the circuit's edges out of the
    head, normalised to sum 1 over heads.  out_degree, in_degree: the circuit's edges out of and
    into the head; an edge into a shared key or value head counts for every living head it feeds.
    """

    strength: torch.Tensor
    importance: torch.Tensor
    out_degree: torch.Tensor
    in_degree: torch.Tensor


@dataclass(frozen=True)
class _Block:
    """Neighbouring destinations that read the same sources; `start`: its first edge.

    feeds: the nodes that each destination feeds, int64 [width, most], some of them repeated.
    fed: all of these, int64 [F]. members: the block's destinations that feed each, [F, most], some
    repeated. counts: how often each destination feeds each, [width, F], 0 or 1.
    """

    start: int
    width: int
    sources: int
    feeds: torch.Tensor
    fed: torch.Tensor
    members: torch.Tensor
    counts: torch.Tensor

    def view(self, values: torch.Tensor) -> torch.Tensor:
        """Values of edges [R, E] as the block's: [R, width, sources]."""
        end = self.start + self.width * self.sources
        return values[:, self.start : end].view(len(values), self.width, self.sources)


@lru_cache(maxsize=16)
def _blocks(graph: Graph) -> list[_Block]:
    reads = graph.edge_mask.sum(0).tolist()
    found, start, first = [], 0, 0
    for sources, run in groupby(reads):
        width = len(list(run))
        counts = graph.readers[first : first + width]
        fed = counts.any(0).nonzero().flatten()
        counts = counts[:, fed]
        feeds, members = (_padded(table) for table in (counts, counts.T))
        block = _Block(start, width, sources, fed[feeds], fed, members, counts.float())
        found.append(block)
        start, first = start + width * sources, first + width
    return sorted(found, key=lambda block: block.sources)


def _padded(table: torch.Tensor) -> torch.Tensor:
    """Where each row is true, the first repeated to fill: bool [n, m] -> int64 [n, most]."""
    rows = [row.nonzero().flatten().tolist() for row in table]
    most = max(map(len, rows))
    return torch.tensor([row + row[:1] * (most - len(row)) for row in rows])


def _into(graph: Graph, w: torch.Tensor) -> torch.Tensor:
    """Widest path from the input to each node: [R, N]."""
    into = w.new_zeros(len(w), graph.n_sources + 1)
    into[:, 0] = torch.inf
    for block in _blocks(graph):
        reached = torch.minimum(block.view(w), into[:, None, : block.sources]).amax(2)
        best = reached[:, block.members].amax(2)
        into[:, block.fed] = torch.maximum(into[:, block.fed], best)
    return into


def _out(graph: Graph, w: torch.Tensor) -> torch.Tensor:
    """Widest path from each node to the logits: [R, N]."""
    out = w.new_zeros(len(w), graph.n_sources + 1)
    out[:, -1] = torch.inf
    for block in reversed(_blocks(graph)):
        end = out[:, block.feeds].amax(2)
        best = torch.minimum(block.view(w), end[:, :, None]).amax(1)
        out[:, : block.sources] = torch.maximum(out[:, : block.sources], best)
    return out


def head_strengths(graph: Graph, w: torch.Tensor) -> torch.Tensor:
    """Entry strength of every head: w >= 0 [R, E] by destination -> [R, A]."""
    return torch.minimum(_into(graph, w), _out(graph, w))[:, graph.head_sources]


def edge_strengths(graph: Graph, w: torch.Tensor) -> torch.Tensor:
    """Entry strength of every edge: w >= 0 [R, E] by destination -> [R, E] by destination."""
    into, out, strengths = _into(graph, w), _out(graph, w), torch.empty_like(w)
    for block in _blocks(graph):
        end = out[:, block.feeds].amax(2)
        ends = torch.minimum(into[:, None, : block.sources], end[:, :, None])
        torch.minimum(block.view(w), ends, out=block.view(strengths))
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
    for block in _blocks(graph):
        below = slice(0, block.sources)
        end = out[:, block.feeds].amax(2) >= floor[:, None]
        alive = into[:, below] >= floor[:, None]
        inside = (block.view(w) >= floor[:, None, None]) & end[:, :, None] & alive[:, None]
        total[:, below] += (block.view(weight) * inside).sum(1)
        n_out[:, below] += inside.sum(1)
        n_in[:, block.fed] += inside.sum(2).to(w.dtype) @ block.counts.to(w.dtype)
    strength = torch.minimum(into, out)
    n_in *= strength >= floor[:, None]
    share = total[:, graph.head_sources]
    return HeadPaths(
        strength=strength[:, graph.head_sources],
        importance=share / share.sum(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny),
        out_degree=n_out[:, graph.head_sources],
        in_degree=n_in[:, graph.head_sources],
    )

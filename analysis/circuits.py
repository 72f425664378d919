"""Edge scores -> circuits. Every function works on many score vectors at once: [..., E].

A circuit is a set of edges, as a boolean mask in the order of `graph.edges`. Selection keeps the
edges of largest |score|; pruning then removes dead nodes as the EAP-IG package does: a node stays
iff an edge enters it (the input always has one) and an edge leaves it, and the edges of a removed
node go, until nothing changes. A shared key or value head feeds every query head of its group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analysis.graph import Graph


@dataclass(frozen=True)
class Circuit:
    """Edges of a graph: `edges` is a bool mask [E]."""

    graph: Graph
    edges: torch.Tensor

    @property
    def n_edges(self) -> int:
        return int(self.edges.sum())

    @property
    def heads(self) -> list[str]:
        """Names of the heads in the circuit, in the graph's order."""
        inside = head_mask(self.graph, self.edges)
        return self.graph.names_of(inside)


def edge_budget(graph: Graph, top_n: int | None, fraction: float | None) -> int:
    """How many edges to select: exactly one of `top_n` and `fraction` (of all edges) is given.

    Raises:
        ValueError: both or neither are given, or the number is not in 1 .. E.
    """
    if (top_n is None) == (fraction is None):
        raise ValueError(f"give exactly one of top_n ({top_n}) and fraction ({fraction})")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], not {fraction}")
        return max(1, round(fraction * graph.n_edges))
    assert top_n is not None
    if not 1 <= top_n <= graph.n_edges:
        raise ValueError(f"top_n must lie in 1 .. {graph.n_edges}, the model's edges, not {top_n}")
    return top_n


def select_edges(graph: Graph, scores: torch.Tensor, budget: int) -> torch.Tensor:
    """The `budget` edges of largest |score| in each vector, pruned.

    Scores [..., E] -> bool [..., E]. An edge whose score is exactly 0 is never selected.
    """
    strength = scores.abs().reshape(-1, graph.n_edges)
    chosen = torch.zeros_like(strength, dtype=torch.bool)
    chosen.scatter_(1, strength.topk(budget, dim=1).indices, True)
    chosen &= strength > 0
    return prune(graph, chosen).view(scores.shape)


def prune(graph: Graph, edges: torch.Tensor) -> torch.Tensor:
    """Remove the edges of dead nodes until none is left: bool [R, E] -> bool [R, E]."""
    source, destination = graph.edges.T
    rows, n_sources, n_destinations = len(edges), graph.n_sources, graph.n_destinations
    readers = graph.readers.float()  # [D, N]
    while True:
        weight = edges.float()
        entered = weight.new_zeros(rows, n_destinations).index_add_(1, destination, weight)
        alive_in = (entered > 0).float() @ readers > 0  # [R, N]
        alive_in[:, 0] = True
        alive_out = weight.new_zeros(rows, n_sources + 1).index_add_(1, source, weight) > 0
        alive_out[:, -1] = True
        alive = alive_in & alive_out
        reached = alive.float() @ readers.T > 0  # [R, D]: feeds at least one living node
        kept = edges & alive[:, source] & reached[:, destination]
        if torch.equal(kept, edges):
            return kept
        edges = kept


def head_mask(graph: Graph, edges: torch.Tensor) -> torch.Tensor:
    """Which heads have an edge out in a pruned circuit: bool [..., E] -> bool [..., L * H]."""
    flat = edges.reshape(-1, graph.n_edges).float()
    out = flat.new_zeros(len(flat), graph.n_sources).index_add_(1, graph.edges[:, 0], flat) > 0
    return out[:, graph.head_sources].view(*edges.shape[:-1], -1)


def select_circuit(
    graph: Graph, scores: torch.Tensor, top_n: int | None = None, fraction: float | None = None
) -> Circuit:
    """The circuit of one score vector [E] (see `edge_budget` and `select_edges`)."""
    return Circuit(graph, select_edges(graph, scores, edge_budget(graph, top_n, fraction)))


def head_importance(graph: Graph, per_pair: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Share of each head in the circuit: sum over pairs and circuit edges out of it of |score|.

    Normalised to sum 1 over heads (arXiv 2509.25758), 0 for heads outside: [pairs, E] -> [L * H].
    """
    strength = per_pair.abs().sum(0) * edges
    total = strength.new_zeros(graph.n_sources).index_add_(0, graph.edges[:, 0], strength)
    heads = total[graph.head_sources]
    return heads / heads.sum().clamp_min(torch.finfo(heads.dtype).tiny)

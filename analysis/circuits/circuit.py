"""Edge scores -> circuits. Every function works on many score vectors at once: [..., E].

A circuit is a set of edges, as a boolean mask in the order of `graph.edges`. Selection takes

    top_n      the edges of largest |score| (signed: of largest score)
    threshold  those with |score| (signed: score) at least the threshold
    greedy     n edges from the logits up: again and again the strongest edge into a node that is in
               already, whose source is then in too

and pruning then removes dead nodes, all as the EAP-IG package does: a node stays iff an edge enters
it (the input always has one) and an edge leaves it, and the edges of a removed node go, until
nothing changes. A shared key or value head feeds every query head of its group.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from analysis.circuits.share import share_of
from analysis.models.graph import Graph

if TYPE_CHECKING:
    from analysis.attribution.edge_scores import EdgeScores


@dataclass(frozen=True)
class Circuit:
    """Edges of a graph: `edges` is a bool mask [E]."""

    graph: Graph
    edges: torch.Tensor

    @property
    def n_edges(self) -> int:
        return int(self.edges.sum())

    @property
    def matrix(self) -> torch.Tensor:
        """The same edges as bool [S, D]."""
        matrix = torch.zeros(self.graph.n_sources, self.graph.n_destinations, dtype=torch.bool)
        matrix[self.graph.edges[:, 0], self.graph.edges[:, 1]] = self.edges
        return matrix

    @property
    def heads(self) -> list[str]:
        """Names of the heads in the circuit, in the graph's order."""
        inside = head_mask(self.graph, self.edges)
        return self.graph.names_of(inside)


def edge_budget(graph: Graph, top_n: int | None, fraction: float | str | None) -> int:
    """How many edges to select: exactly one of `top_n` and `fraction` is given.

    fraction: of all edges, or `auto` (analysis/circuits/share.py), which counts the sources of a
    graph that has no heads.

    Raises:
        ValueError: both or neither are given, or the number is not in 1 .. E.
    """
    if (top_n is None) == (fraction is None):
        raise ValueError(f"give exactly one of top_n ({top_n}) and fraction ({fraction})")
    if fraction is not None:
        return share_of(fraction, graph.n_edges, graph.n_heads_total or graph.n_sources)
    assert top_n is not None
    if not 1 <= top_n <= graph.n_edges:
        raise ValueError(f"top_n must lie in 1 .. {graph.n_edges}, the model's edges, not {top_n}")
    return top_n


def select_edges(
    graph: Graph, scores: torch.Tensor, budget: int, signed: bool = False
) -> torch.Tensor:
    """The `budget` edges of largest |score| (signed: score) in each vector, pruned.

    Scores [..., E] -> bool [..., E]. An edge whose score is exactly 0 is never selected.
    """
    flat = scores.reshape(-1, graph.n_edges)
    strength = flat if signed else flat.abs()
    chosen = torch.zeros_like(strength, dtype=torch.bool)
    chosen.scatter_(1, strength.topk(budget, dim=1).indices, True)
    return prune(graph, chosen & (flat != 0)).view(scores.shape)


def select_above(
    graph: Graph, scores: torch.Tensor, threshold: float, signed: bool = False
) -> torch.Tensor:
    """The edges with |score| (signed: score) at least the threshold, pruned: [..., E]."""
    strength = (scores if signed else scores.abs()).reshape(-1, graph.n_edges)
    return prune(graph, strength >= threshold).view(scores.shape)


def select_greedy(
    graph: Graph, scores: torch.Tensor, budget: int, signed: bool = False
) -> torch.Tensor:
    """`budget` edges grown from the logits, the strongest reachable one first, pruned: [E]."""
    strength = (scores if signed else scores.abs()).tolist()
    source, destination = graph.edges.T.tolist()
    into: dict[int, list[int]] = {}
    for edge, reads in enumerate(destination):
        into.setdefault(reads, []).append(edge)
    feeds = graph.readers.T  # [N, D]
    chosen = torch.zeros(graph.n_edges, dtype=torch.bool)
    reachable: list[tuple[float, int]] = []
    nodes: set[int] = set()
    opened: set[int] = set()

    def enter(node: int) -> None:
        nodes.add(node)
        for reads in feeds[node].nonzero().flatten().tolist():
            if reads not in opened:
                opened.add(reads)
                for edge in into[reads]:
                    heapq.heappush(reachable, (-strength[edge], edge))

    enter(graph.n_sources)  # the logits
    while reachable and budget:
        _, edge = heapq.heappop(reachable)
        chosen[edge] = True
        budget -= 1
        if source[edge] not in nodes:
            enter(source[edge])
    return prune(graph, chosen[None])[0]


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
    """Which heads have an edge out in a pruned circuit: bool [..., E] -> bool [..., A]."""
    flat = edges.reshape(-1, graph.n_edges).float()
    out = flat.new_zeros(len(flat), graph.n_sources).index_add_(1, graph.edges[:, 0], flat) > 0
    return out[:, graph.head_sources].view(*edges.shape[:-1], -1)


def select_circuit(
    scores: EdgeScores,
    top_n: int | None = None,
    fraction: float | str | None = None,
    threshold: float | None = None,
    greedy: bool = False,
    signed: bool = False,
) -> Circuit:
    """The circuit of the mean scores, pruned.

    Args:
        top_n, fraction, threshold: how many edges, which share of them (or "auto"), or from which
            score on; exactly one is given.
        greedy: grow the `top_n` (or `fraction`) edges from the logits up.
        signed: rank by score instead of by |score|, so that edges that hurt stay out.

    Raises:
        ValueError: not exactly one of the three is given, the number is out of range, or greedy
            goes with a threshold.
    """
    graph, mean = scores.graph, scores.per_edge.mean(0)
    if threshold is not None:
        if top_n is not None or fraction is not None or greedy:
            raise ValueError("a threshold goes with no top_n, no fraction and not with greedy")
        return Circuit(graph, select_above(graph, mean, threshold, signed))
    budget = edge_budget(graph, top_n, fraction)
    select = select_greedy if greedy else select_edges
    return Circuit(graph, select(graph, mean, budget, signed))


def head_importance(graph: Graph, per_pair: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Share of each head in the circuit: sum over pairs and circuit edges out of it of |score|.

    Normalised to sum 1 over heads (arXiv 2509.25758), 0 for heads outside: [pairs, E] -> [A].
    """
    strength = per_pair.abs().sum(0) * edges
    total = strength.new_zeros(graph.n_sources).index_add_(0, graph.edges[:, 0], strength)
    heads = total[graph.head_sources]
    return heads / heads.sum().clamp_min(torch.finfo(heads.dtype).tiny)

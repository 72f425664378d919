"""How far the circuits of a method depend on the pairs that they were found on.

Pairs are cut into disjoint halves (analysis/circuits/halves.py), again and again. Of each half's
mean scores the circuit of a size is selected, and of the two circuits the Jaccard index is taken:
the resampling variance of Wu et al. 2026, arXiv 2606.16920, of samples half as large as the pairs.

Shape legend: P pairs, E edges, K sizes, R splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from analysis.circuits.circuit import Circuit, head_mask, select_edges
from analysis.circuits.halves import halves
from analysis.heads.changes import jaccard
from analysis.models.graph import Graph


@dataclass(frozen=True)
class Agreement:
    """Jaccard indices of the two halves' circuits: [R, K] of their edges and of their heads."""

    edges: torch.Tensor
    heads: torch.Tensor


def splits(groups: Sequence[int], count: int) -> torch.Tensor:
    """Which half each pair is in, in each split: bool [R, P].

    Raises:
        ValueError: all pairs stand in one cluster, so that there are no two samples.
    """
    found = [halves(groups, seed) for seed in range(count)]
    if any(half is None for half in found):
        raise ValueError("the pairs share their prompts: there are no two samples among them")
    return torch.tensor(found) == 1


def half_circuits(
    graph: Graph, per_pair: torch.Tensor, second: torch.Tensor, size: int
) -> torch.Tensor:
    """Circuits of the mean scores of the first and the second half, pruned: bool [2, E].

    per_pair: [P, E]. second: bool [P]. size: edges before pruning.
    """
    means = torch.stack([per_pair[~second].mean(0), per_pair[second].mean(0)])
    return select_edges(graph, means, size)


def agreement(
    graph: Graph, per_pair: torch.Tensor, inside: torch.Tensor, sizes: Sequence[int]
) -> Agreement:
    """Over splits, `inside` [R, P], and sizes in edges."""
    edges, heads = [], []
    for second in inside:
        circuits = [half_circuits(graph, per_pair, second, size) for size in sizes]
        edges.append(torch.stack([jaccard(*both) for both in circuits]))
        heads.append(torch.stack([jaccard(*head_mask(graph, both)) for both in circuits]))
    return Agreement(torch.stack(edges), torch.stack(heads))


def crossed(
    graph: Graph, per_pair: torch.Tensor, second: torch.Tensor, sizes: Sequence[int]
) -> tuple[list[Circuit], list[Circuit]]:
    """The circuits of each size for the pairs of the first half, and for those of the second.

    Each is of the other half's scores.
    """
    both = [half_circuits(graph, per_pair, second, size) for size in sizes]
    return [Circuit(graph, b[1]) for b in both], [Circuit(graph, b[0]) for b in both]

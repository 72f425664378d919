"""Circuits of disjoint halves of the pairs: which pairs stand where, and how far they agree."""

from __future__ import annotations

import pytest
import torch

from analysis.comparison.stability import agreement, crossed, splits
from analysis.models.graph import Graph

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2)


def test_splits_are_halves_that_no_cluster_is_cut_by():
    inside = splits([0, 1, 1, 2, 3, 4], 8)
    assert inside.shape == (8, 6) and torch.equal(inside[:, 1], inside[:, 2])
    assert inside.sum(1).eq(3).all() and len(inside.unique(dim=0)) > 2
    with pytest.raises(ValueError, match="no two samples"):
        splits([0, 0, 0], 2)


def test_agreement_falls_with_noise_and_halves_choose_for_each_other():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(GRAPH.n_edges, generator=generator)
    noise = torch.randn(16, GRAPH.n_edges, generator=generator)
    inside, sizes = splits(range(16), 5), [20, 60]
    means = []
    for scale in (0.0, 0.5, 4.0):
        found = agreement(GRAPH, signal + scale * noise, inside, sizes)
        assert found.edges.shape == found.heads.shape == (5, 2)
        means.append(float(found.edges.mean()))
    assert means[0] == 1 > means[1] > means[2]
    scores = signal + noise
    for_first, for_second = crossed(GRAPH, scores, inside[0], sizes)
    scores[~inside[0]] = signal  # what the first half says is in the second's circuits only
    again, other = crossed(GRAPH, scores, inside[0], sizes)
    assert torch.equal(again[0].edges, for_first[0].edges)
    assert not torch.equal(other[0].edges, for_second[0].edges)

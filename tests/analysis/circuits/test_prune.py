"""A circuit by hand, and what pruning leaves of it."""

from __future__ import annotations

import torch

from analysis.circuits.circuit import prune
from analysis.models.graph import Graph

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2)


def edges_named(*names: str) -> torch.Tensor:
    mask = torch.zeros(GRAPH.n_edges, dtype=torch.bool)
    all_names = [GRAPH.edge_name(i) for i in range(GRAPH.n_edges)]
    for name in names:
        mask[all_names.index(name)] = True
    return mask


def test_prune_removes_dead_ends_and_keeps_shared_heads():
    edges = edges_named(
        "input->a0.h0<q>",
        "a0.h0->a1.kv0<k>",
        "a1.h1->logits",  # lives: kv0 feeds a1.h1
        "input->a0.h2<q>",  # a0.h2 writes nowhere
        "a0.h3->m0",
        "m0->logits",  # nothing enters a0.h3, so m0 has no input either
        "input->a1.kv1<v>",  # feeds a1.h2 and a1.h3, which write nowhere
    )
    kept = prune(GRAPH, edges[None])[0]
    expected = edges_named("input->a0.h0<q>", "a0.h0->a1.kv0<k>", "a1.h1->logits")
    assert torch.equal(kept, expected)

"""Edges of a graph, their number and names."""

from __future__ import annotations

import pytest

from analysis.models.graph import Graph

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2)


def test_graph_counts_and_names():
    # input and layer 0's heads feed m0; everything below feeds layer 1, and all feeds the logits
    assert GRAPH.n_edges == 1 * 8 + 5 + 6 * 8 + 10 + 11
    assert GRAPH.parse_head("L1H3") == GRAPH.parse_head("a1.h3") == (1, 3)
    with pytest.raises(ValueError, match="no head L2H0"):
        GRAPH.parse_head("L2H0")
    with pytest.raises(ValueError, match="write a3.h2 or L3H2"):
        GRAPH.parse_head("head 3")


def test_paper_edge_counts():
    """top-5000 is 2.72 % of the ungrouped 28 x 12 graph; grouped, shared heads are single edges."""
    ungrouped = Graph(28, 12, 12)
    assert ungrouped.n_edges == 183_555
    assert Graph(28, 12, 2).n_edges < ungrouped.n_edges

"""Circuits with a k and a v edge for every query head, on a graph that shares them in groups.

Files of the EAP-IG package and of MIB know no groups: of a model with fewer key and value heads
than query heads they have `u->a3.h0<k>` to `u->a3.h3<k>` where our grouped graph has one edge
`u->a3.kv0<k>`. That edge is the sum of theirs (analysis/models/graph.py), so its score is the sum
of their scores, exactly, and it is in a circuit if any of them is. A head has the same edges out
either way, so the circuit keeps its heads.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from analysis.circuits.circuit import Circuit
from analysis.circuits.graph_contents import GraphFile
from analysis.models.graph import Graph


def can_share(own: Graph, shared: Graph) -> bool:
    """Whether the edges of a graph are members of those of another, or the same ones."""
    size = (shared.n_layers, shared.n_heads)
    regular = own.layers is None and shared.layers is None
    return regular and (own.n_layers, own.n_heads) == size and own.kv_width == own.n_heads


def share(file: GraphFile, graph: Graph) -> GraphFile:
    """A circuit of an ungrouped graph on one that shares heads (`can_share`)."""
    to = _places(file.circuit.graph, graph)
    edges = torch.zeros(graph.n_edges, dtype=torch.bool)
    edges[to[file.circuit.edges]] = True
    scores = file.scores
    if scores is not None:
        scores = scores.new_zeros(graph.n_edges).index_add_(0, to, scores)
    return replace(file, circuit=Circuit(graph, edges), scores=scores)


def _places(own: Graph, shared: Graph) -> torch.Tensor:
    """For each edge of a graph the one of the other that holds it: int64 [E]."""
    index = torch.zeros(shared.edge_mask.shape, dtype=torch.int64)
    index[shared.edge_mask] = torch.arange(shared.n_edges)
    source, destination = own.edges.T
    width, wider = own.widest_layer, shared.widest_layer
    layer, place = destination // width, destination % width
    heads, kv, group = own.n_heads, shared.kv_width, own.n_heads // shared.kv_width
    of_k = heads + (place - heads) // group
    of_v = heads + kv + (place - 2 * heads) // group
    moved = torch.where(place < heads, place, torch.where(place < 2 * heads, of_k, of_v))
    moved = torch.where(place == width - 1, wider - 1, moved)
    logits = destination == own.n_destinations - 1
    to = torch.where(logits, shared.n_destinations - 1, layer * wider + moved)
    return index[source, to]

"""Circuits with a k and a v edge for every query head, on a graph that shares them in groups.

Files of the EAP-IG package and of MIB know no groups: of a model with fewer key and value heads
than query heads they have `u->a3.h0<k>` to `u->a3.h3<k>` where our grouped graph has one edge
`u->a3.kv0<k>`. That edge is the sum of theirs (analysis/models/graph.py), so its score is the sum
of their scores, exactly, and it is in a circuit if any of them is. A head has the same edges out
either way, so the circuit keeps its heads. The same holds of any two graphs with one set of sources
whose destinations of one are sums of the other's, such as shared latents and parallel blocks.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from analysis.circuits.circuit import Circuit
from analysis.circuits.graph_contents import GraphFile
from analysis.models.graph import Graph


def can_share(own: Graph, shared: Graph) -> bool:
    """Whether the edges of a graph are members of those of another, or the same ones."""
    return _columns(own, shared) is not None


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
    to = _columns(own, shared)
    assert to is not None
    source, destination = own.edges.T
    return index[source, to[destination]]


def _columns(own: Graph, shared: Graph) -> torch.Tensor | None:
    """For each destination of a graph the one of the other that holds it: int64 [D].

    None where they have other sources or edges, or a destination is none of the other's.
    """
    if own.source_names != shared.source_names:
        return None
    if own.destination_names == shared.destination_names:
        to = torch.arange(own.n_destinations)
    else:
        pairs = [(name, to) for to, names in enumerate(_members(shared)) for name in names]
        holder = dict(pairs)
        members = _members(own)
        found = [{holder.get(name, -1) for name in names} for names in members]
        whole = len(holder) == len(pairs) == sum(map(len, members))
        if not whole or any(len(columns) > 1 or -1 in columns for columns in found):
            return None
        to = torch.tensor([min(columns) for columns in found])
    return to if torch.equal(own.edge_mask, shared.edge_mask[:, to]) else None


def _members(graph: Graph) -> list[list[str]]:
    """Of each destination, the names that it would have were it one for each head."""
    found = []
    for layer, shape in enumerate(graph.shapes):
        for side in shape.sides:
            end = f"<{side.letter}>"
            found += [[f"a{layer}.h{head}{end}" for head in heads] for heads in side.feeds]
        found += [[name] for name in shape.node_names(layer)]
    return [*found, ["logits"]]

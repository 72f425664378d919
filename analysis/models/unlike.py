"""Whether two models have the same edges, and how their heads differ, in words for messages."""

from __future__ import annotations

from collections import Counter

import torch

from analysis.models.graph import Graph


def same_edges(a: Graph, b: Graph) -> bool:
    """Whether two graphs have the same edges, of the same names, in the same order."""
    if a == b:
        return True
    names = (a.source_names, a.destination_names) == (b.source_names, b.destination_names)
    return names and torch.equal(a.edge_mask, b.edge_mask)


def unlike_heads(a: Graph, b: Graph) -> tuple[str, str] | None:
    """What a has, and what b has instead; None if their heads are the same.

    The same are as many in each layer, of the same kinds.

    >>> unlike_heads(Graph(2, 4, 2), Graph(2, 8, 2))
    ('2 layers with 4 heads', '2 layers with 8 heads')
    """
    if (a.n_layers, a.n_heads) != (b.n_layers, b.n_heads):
        return _size(a), _size(b)
    for layer, (one, two) in enumerate(zip(a.shapes, b.shapes, strict=True)):
        if one.kinds != two.kinds:
            of_a, of_b = (_heads(shape.kinds) for shape in (one, two))
            return f"{of_a} in layer {layer}", f"{of_b} in layer {layer}"
    return None


def _size(graph: Graph) -> str:
    fewest = min((shape.n_heads for shape in graph.shapes), default=0)
    heads = f"{fewest} to {graph.n_heads}" if fewest < graph.n_heads else str(graph.n_heads)
    return f"{graph.n_layers} layers with {heads} heads"


def _heads(kinds: list[str]) -> str:
    """`2 heads`, or with the kinds `2 softmax and 1 linear heads`."""
    found = Counter(kinds)
    if len(found) < 2 and "linear" not in found:
        return f"{len(kinds)} heads"
    return " and ".join(f"{count} {kind}" for kind, count in found.items()) + " heads"

"""Graphs that are not regular, written by hand: of layers that each have something else."""

from __future__ import annotations

from analysis.models.graph import Graph, HeadsShape, LayerShape, NodeShape, SideShape


def each(*heads: int) -> tuple[tuple[int, ...], ...]:
    """A destination for each head."""
    return tuple((head,) for head in heads)


MLP = NodeShape("m", (1,), 2)


def gated_layer() -> LayerShape:
    """Four heads with gates, two key/value heads."""
    groups = ((0, 1), (2, 3))
    sides = (
        SideShape("q", "h", 0, each(0, 1, 2, 3)),
        SideShape("g", "h", 0, each(0, 1, 2, 3)),
        SideShape("k", "kv", 0, groups),
        SideShape("v", "kv", 0, groups),
    )
    return LayerShape(2, (HeadsShape(4, 1),), sides, (MLP,))


def linear_layer() -> LayerShape:
    """Three heads of linear attention, whose rows can't be told apart."""
    return LayerShape(
        2, (HeadsShape(3, 1, "linear"),), (SideShape("in", "h", 0, each(0, 1, 2)),), (MLP,)
    )


def mixer_layer() -> LayerShape:
    """A mixer of tokens without heads, then an MLP."""
    return LayerShape(2, (), (), (NodeShape("x", (0,), 1), MLP))


def latent_layer() -> LayerShape:
    """Two heads with latents that both share; beside them an MLP that reads what they read."""
    sides = SideShape("q", "h", 0, each(0, 1)), SideShape("kv", "*", 0, ((0, 1),))
    nodes = NodeShape("m", (0,), 1), NodeShape("m", (1,), 2)
    return LayerShape(2, (HeadsShape(2, 1),), sides, nodes)


def two_attentions() -> LayerShape:
    """Two heads of softmax attention, then two of linear attention, numbered on; an MLP."""
    sides = (
        SideShape("q", "h", 0, each(0, 1)),
        SideShape("k", "kv", 0, ((0, 1),)),
        SideShape("v", "kv", 0, ((0, 1),)),
        SideShape("in", "h", 1, each(2, 3)),
    )
    heads = HeadsShape(2, 1), HeadsShape(2, 2, "linear")
    return LayerShape(3, heads, sides, (NodeShape("m", (2,), 3),))


def ragged_graph() -> Graph:
    """Layers of 4, 3, 0, 2 and 4 heads."""
    layers = gated_layer(), linear_layer(), mixer_layer(), latent_layer(), two_attentions()
    return Graph.of(layers, n_kv_heads=2)


def graph_without_heads() -> Graph:
    """Mixers only, as state-space models have them."""
    return Graph.of((LayerShape(1, (), (), (NodeShape("x", (0,), 1),)),) * 3, n_kv_heads=0)

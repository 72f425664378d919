"""Names and indices of the nodes and edges of a transformer's residual-stream graph.

Sources (what writes into the residual stream), L layers of H heads:
    `input` = 0,  `a{l}.h{h}` = 1 + l (H+1) + h,  `m{l}` = 1 + l (H+1) + H
Destinations (what reads it; K key/value heads; grouped: one k and one v per key/value head):
    `a{l}.h{h}<q>` = l (H+2K+1) + h,  `a{l}.kv{j}<k>` = ... + H + j,
    `a{l}.kv{j}<v>` = ... + H + K + j,  `m{l}` = ... + H + 2K,  `logits` last
Ungrouped, every query head has a k and a v of its own, as in the EAP-IG package: `a{l}.h{h}<k>`,
`a{l}.h{h}<v>`, and H stands for K above. A grouped edge is the sum of its ungrouped members.
An edge runs from every source to every destination above it; an MLP reads the heads of its layer.
Node names are those of the EAP-IG package, except that a shared key or value head is one node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import torch

KV = ("grouped", "ungrouped")
_HEAD = re.compile(r"^(?:a(\d+)\.h(\d+)|[Ll](\d+)[Hh](\d+))$")


@dataclass(frozen=True)
class Graph:
    """The graph of a model with `n_layers` x `n_heads` heads and `n_kv_heads` key/value heads.

    Shapes below: S sources, D destinations, E edges, N = S + 1 nodes (the sources, then `logits`).

    Raises:
        ValueError: the query heads don't divide into the key/value heads, or `kv` is unknown.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    kv: str = "grouped"

    def __post_init__(self) -> None:
        if self.kv not in KV:
            raise ValueError(f"unknown kv {self.kv!r}; known: {', '.join(KV)}")
        if self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} query heads can't share {self.n_kv_heads} key/value heads evenly"
            )

    @property
    def kv_width(self) -> int:
        """Key destinations in one layer, and as many value destinations."""
        return self.n_heads if self.kv == "ungrouped" else self.n_kv_heads

    @property
    def n_sources(self) -> int:
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def layer_width(self) -> int:
        """Destinations in one layer."""
        return self.n_heads + 2 * self.kv_width + 1

    @property
    def n_destinations(self) -> int:
        return self.n_layers * self.layer_width + 1

    def head_source(self, layer: int, head: int) -> int:
        """Index of a head among the sources."""
        return 1 + layer * (self.n_heads + 1) + head

    def attention_sources(self, layer: int) -> int:
        """How many sources the attention of a layer reads."""
        return 1 + layer * (self.n_heads + 1)

    def mlp_sources(self, layer: int) -> int:
        """How many sources the MLP of a layer reads."""
        return self.attention_sources(layer) + self.n_heads

    @cached_property
    def source_names(self) -> list[str]:
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)] + [f"m{layer}"]
        return names

    @cached_property
    def destination_names(self) -> list[str]:
        names = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}<q>" for head in range(self.n_heads)]
            node = "kv" if self.kv == "grouped" else "h"
            names += [f"a{layer}.{node}{j}<{side}>" for side in "kv" for j in range(self.kv_width)]
            names.append(f"m{layer}")
        return [*names, "logits"]

    @cached_property
    def head_names(self) -> list[str]:
        """`a0.h0, a0.h1, ...`, layer by layer: [L * H]."""
        return [f"a{i}.h{j}" for i in range(self.n_layers) for j in range(self.n_heads)]

    @cached_property
    def head_sources(self) -> torch.Tensor:
        """Source index of every head, in the order of `head_names`: int64 [L * H]."""
        layers, heads = torch.arange(self.n_layers), torch.arange(self.n_heads)
        return (1 + layers[:, None] * (self.n_heads + 1) + heads).flatten()

    @cached_property
    def edge_mask(self) -> torch.Tensor:
        """True where an edge exists: bool [S, D]."""
        mask = torch.zeros(self.n_sources, self.n_destinations, dtype=torch.bool)
        for layer in range(self.n_layers):
            start = layer * self.layer_width
            mlp = start + self.layer_width - 1
            mask[: self.attention_sources(layer), start:mlp] = True
            mask[: self.mlp_sources(layer), mlp] = True
        mask[:, -1] = True
        return mask

    @cached_property
    def edges(self) -> torch.Tensor:
        """Source and destination of every edge, by source then destination: int64 [E, 2]."""
        return self.edge_mask.nonzero()

    @property
    def n_edges(self) -> int:
        return self.edges.shape[0]

    @cached_property
    def readers(self) -> torch.Tensor:
        """Which nodes a destination feeds: bool [D, N]; a shared key or value head, its group."""
        feeds = torch.zeros(self.n_destinations, self.n_sources + 1, dtype=torch.bool)
        group = self.n_heads // self.kv_width
        for layer in range(self.n_layers):
            start = layer * self.layer_width
            for head in range(self.n_heads):
                node = self.head_source(layer, head)
                kv = start + self.n_heads + head // group
                feeds[[start + head, kv, kv + self.kv_width], node] = True
            feeds[start + self.layer_width - 1, self.mlp_sources(layer)] = True
        feeds[-1, -1] = True
        return feeds

    def names_of(self, heads: torch.Tensor) -> list[str]:
        """Names of the heads where a mask [L * H] is true."""
        return [self.head_names[index] for index in heads.nonzero().flatten().tolist()]

    def edge_name(self, edge: int) -> str:
        source, destination = self.edges[edge].tolist()
        return f"{self.source_names[source]}->{self.destination_names[destination]}"

    def parse_head(self, text: str) -> tuple[int, int]:
        """Layer and head of `a3.h2` or `L3H2`; ValueError if it is neither or out of range.

        >>> Graph(n_layers=4, n_heads=8, n_kv_heads=4).parse_head("L3H2")
        (3, 2)
        """
        found = _HEAD.match(text.strip())
        if not found:
            raise ValueError(f"{text!r} is not a head; write a3.h2 or L3H2")
        layer, head = (int(part) for part in found.groups() if part is not None)
        if layer >= self.n_layers or head >= self.n_heads:
            raise ValueError(
                f"no head {text}: the model has layers 0-{self.n_layers - 1} "
                f"and heads 0-{self.n_heads - 1}"
            )
        return layer, head


def short_head_name(name: str) -> str:
    """A head as people write it.

    >>> short_head_name("a3.h2")
    'L3H2'
    """
    return name.upper().replace("A", "L").replace(".", "")


Head = tuple[int, int]  # layer and index in it


def head_name(head: Head) -> str:
    """`L3H2`."""
    return f"L{head[0]}H{head[1]}"

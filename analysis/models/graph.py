"""Names and indices of the nodes and edges of a transformer's residual-stream graph.

Sources (what writes into the residual stream), of L layers of H heads:
    `input` = 0,  `a{l}.h{h}` = 1 + l (H+1) + h,  `m{l}` = 1 + l (H+1) + H
Destinations (what reads it; K key/value heads; grouped: one k and one v per key/value head):
    `a{l}.h{h}<q>` = l (H+2K+1) + h,  `a{l}.kv{j}<k>` = ... + H + j,
    `a{l}.kv{j}<v>` = ... + H + K + j,  `m{l}` = ... + H + 2K,  `logits` last
Ungrouped, every query head has a k and a v of its own, as in the EAP-IG package: `a{l}.h{h}<k>`,
`a{l}.h{h}<v>`, and H stands for K above. A grouped edge is the sum of its ungrouped members.
Node names are those of the EAP-IG package, except that a shared key or value head is one node.

That is the regular graph. In any other (`Graph.layers`) every layer says what it has: no heads or
another number, gates `a{l}.h{h}<g>`, rows that several heads share `a{l}.*<kv>`, a mixer of tokens
without heads `x{l}`, several nodes, or an MLP that reads what the attention reads.

The stream has points: what enters the first layer is point 0, and each thing that is added makes
the next one. A source is written at a point, a destination reads at one (a node with several
inputs, at several), and an edge runs from each source to each destination that reads at its point
or above.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch

from analysis.files import short_hash

KV = ("grouped", "ungrouped")
_HEAD = re.compile(r"^(?:a(\d+)\.h(\d+)|[Ll](\d+)[Hh](\d+))$")


@dataclass(frozen=True)
class HeadsShape:
    """Heads of one output projection; `writes` is the layer's point at which that has arrived.

    kind: `softmax`, or `linear` for the heads of linear attention and of state-space models.
    """

    count: int
    writes: int
    kind: str = "softmax"


@dataclass(frozen=True)
class SideShape:
    """Destinations of an attention: one letter, and for each the heads of the layer that it feeds.

    of: `h`, one for a head; `kv`, one for a key/value head; `*`, shared by all heads; `+`, by some.
    first: the number of the first in names of `kv`.
    """

    letter: str
    of: str
    reads: int
    feeds: tuple[tuple[int, ...], ...]
    first: int = 0

    def names(self, layer: int) -> list[str]:
        """`a3.h2<q>`, ..."""
        return [
            f"a{layer}.{self._label(index, heads)}<{self.letter}>"
            for index, heads in enumerate(self.feeds)
        ]

    def _label(self, index: int, heads: tuple[int, ...]) -> str:
        labels = {"h": f"h{heads[0]}", "kv": f"kv{self.first + index}", "*": "*"}
        return labels[self.of] if self.of in labels else "+".join(f"h{head}" for head in heads)


@dataclass(frozen=True)
class NodeShape:
    """A node without heads: `m`, or `x` where it mixes tokens. Reads at points, writes at one."""

    letter: str
    reads: tuple[int, ...]
    writes: int


@dataclass(frozen=True)
class LayerShape:
    """What a layer has. Its points: 0 is what enters it, `points` what leaves it."""

    points: int
    heads: tuple[HeadsShape, ...]
    sides: tuple[SideShape, ...]
    nodes: tuple[NodeShape, ...]

    @property
    def n_heads(self) -> int:
        return sum(part.count for part in self.heads)

    @property
    def n_destinations(self) -> int:
        return sum(len(side.feeds) for side in self.sides) + len(self.nodes)

    @property
    def kinds(self) -> list[str]:
        """The kind of each head."""
        return [part.kind for part in self.heads for _ in range(part.count)]

    @cached_property
    def order(self) -> list[tuple[int, bool, int, int]]:
        """The layer's sources in their order: (point, is a node, its index there, how many)."""
        heads = [(part.writes, False, index, part.count) for index, part in enumerate(self.heads)]
        nodes = [(node.writes, True, index, 1) for index, node in enumerate(self.nodes)]
        return sorted(heads + nodes)

    def node_names(self, layer: int) -> list[str]:
        """`m3`, a second one `m3.1`."""
        seen: dict[str, int] = {}
        names = []
        for node in self.nodes:
            count = seen.setdefault(node.letter, 0)
            seen[node.letter] += 1
            names.append(f"{node.letter}{layer}" + (f".{count}" if count else ""))
        return names


def regular_layer(n_heads: int, n_kv_heads: int, kv: str = "grouped") -> LayerShape:
    """`x += attention(norm(x)); x += mlp(norm(x))`."""
    each = tuple((head,) for head in range(n_heads))
    group = n_heads // n_kv_heads
    groups = tuple(tuple(range(j * group, (j + 1) * group)) for j in range(n_kv_heads))
    of, feeds = ("kv", groups) if kv == "grouped" else ("h", each)
    sides = SideShape("q", "h", 0, each), SideShape("k", of, 0, feeds), SideShape("v", of, 0, feeds)
    return LayerShape(2, (HeadsShape(n_heads, 1),), sides, (NodeShape("m", (1,), 2),))


@dataclass(frozen=True)
class Graph:
    """The graph of a model with `n_layers` x `n_heads` heads and `n_kv_heads` key/value heads.

    layers: what each layer has, where that is not regular; `n_heads` is then that of the layer with
    most, and the heads of a layer may be fewer, or none.

    Shapes below: S sources, D destinations, E edges, A heads in all, N = S + 1 nodes (the sources,
    then `logits`).

    Raises:
        ValueError: the query heads don't divide into the key/value heads, `kv` is unknown, or the
            layers are not as many as is said.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    kv: str = "grouped"
    layers: tuple[LayerShape, ...] | None = None

    def __post_init__(self) -> None:
        if self.kv not in KV:
            raise ValueError(f"unknown kv {self.kv!r}; known: {', '.join(KV)}")
        if self.layers is not None:
            most = max((layer.n_heads for layer in self.layers), default=0)
            if (self.n_layers, self.n_heads) != (len(self.layers), most):
                raise ValueError(
                    f"{self.n_layers} layers of up to {self.n_heads} heads are said, and there are "
                    f"{len(self.layers)} of up to {most}"
                )
        elif self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} query heads can't share {self.n_kv_heads} key/value heads evenly"
            )

    @classmethod
    def of(cls, layers: tuple[LayerShape, ...], n_kv_heads: int, kv: str = "grouped") -> Graph:
        """The graph of layers: the regular one, if they are all those of `regular_layer`."""
        n_heads = max((layer.n_heads for layer in layers), default=0)
        if n_kv_heads and n_heads and n_heads % n_kv_heads == 0:
            regular = regular_layer(n_heads, n_kv_heads, kv)
            if all(layer == regular for layer in layers):
                return cls(len(layers), n_heads, n_kv_heads, kv)
        return cls(len(layers), n_heads, n_kv_heads, kv, layers)

    def __repr__(self) -> str:
        """Short, for messages: the heads of each layer, and what else layers have as a hash."""
        layers, counts = self.layers, [layer.n_heads for layer in self.shapes]
        heads = self.n_heads if len(set(counts)) < 2 else counts
        own = "" if layers is None else f", layers={short_hash(repr(layers), 8)}"
        sizes = f"n_layers={self.n_layers}, n_heads={heads}, n_kv_heads={self.n_kv_heads}"
        return f"Graph({sizes}, kv={self.kv!r}{own})"

    def as_json(self) -> dict[str, Any]:
        """What files hold of it (analysis/models/graph_form.py reads it): the four numbers.

        Where it is not regular, the `shapes` of layers that differ, and of each layer which it has.
        """
        names = ("n_layers", "n_heads", "n_kv_heads", "kv")
        content = {name: getattr(self, name) for name in names}
        if self.layers is not None:
            shapes = list(dict.fromkeys(self.layers))
            content["shapes"] = [asdict(shape) for shape in shapes]
            content["layers"] = [shapes.index(layer) for layer in self.layers]
        return content

    @cached_property
    def shapes(self) -> tuple[LayerShape, ...]:
        """What each layer has."""
        if self.layers is not None:
            return self.layers
        return (regular_layer(self.n_heads, self.n_kv_heads, self.kv),) * self.n_layers

    @property
    def kv_width(self) -> int:
        """Key destinations in one layer of a regular graph, and as many value destinations."""
        return self.n_heads if self.kv == "ungrouped" else self.n_kv_heads

    @cached_property
    def _sources(self) -> _Sources:
        return _Sources(self.shapes)

    @cached_property
    def _columns(self) -> list[int]:
        """The first destination of each layer; then `logits`."""
        return list(accumulate((layer.n_destinations for layer in self.shapes), initial=0))

    @property
    def n_sources(self) -> int:
        return len(self._sources.names)

    @property
    def n_destinations(self) -> int:
        return self._columns[-1] + 1

    def columns(self, layer: int) -> slice:
        """The destinations of a layer."""
        return slice(self._columns[layer], self._columns[layer + 1])

    @property
    def widest_layer(self) -> int:
        """The most destinations that one layer has."""
        return max(
            (b - a for a, b in zip(self._columns, self._columns[1:], strict=False)), default=0
        )

    def node_column(self, layer: int, node: int) -> int:
        """The destination of a layer's node."""
        return self._columns[layer + 1] - len(self.shapes[layer].nodes) + node

    def head_source(self, layer: int, head: int) -> int:
        """Index of a head among the sources."""
        return self._sources.heads[layer][head]

    def node_source(self, layer: int, node: int = 0) -> int:
        """Index of a layer's node among the sources."""
        return self._sources.nodes[layer][node]

    def sources_at(self, layer: int, point: int) -> int:
        """How many sources have been written at a layer's point: they are the first so many."""
        return self._sources.written[layer][point]

    @property
    def source_names(self) -> list[str]:
        return self._sources.names

    @cached_property
    def destination_names(self) -> list[str]:
        names: list[str] = []
        for layer, shape in enumerate(self.shapes):
            sides = [name for side in shape.sides for name in side.names(layer)]
            twice = {name for name in sides if sides.count(name) > 1} if self.layers else set()
            seen: dict[str, int] = {}
            for name in sides:
                seen[name] = seen.get(name, 0) + 1
                names.append(f"{name}#{seen[name]}" if name in twice else name)
            names += shape.node_names(layer)
        return [*names, "logits"]

    @cached_property
    def heads(self) -> list[Head]:
        """Layer and index of every head, layer by layer: [A]."""
        return [(i, j) for i, shape in enumerate(self.shapes) for j in range(shape.n_heads)]

    @property
    def n_heads_total(self) -> int:
        """A."""
        return len(self.heads)

    @property
    def is_ragged(self) -> bool:
        """Whether some layers have fewer heads than others, or none."""
        return any(shape.n_heads < self.n_heads for shape in self.shapes)

    @cached_property
    def head_index(self) -> dict[Head, int]:
        """The place of each head in `heads`."""
        return {head: index for index, head in enumerate(self.heads)}

    def heads_in(self, layer: int) -> int:
        """How many heads a layer has."""
        return self.shapes[layer].n_heads

    @cached_property
    def head_kinds(self) -> list[str]:
        """`softmax` or `linear`, of every head: [A]."""
        return [kind for shape in self.shapes for kind in shape.kinds]

    @cached_property
    def head_names(self) -> list[str]:
        """`a0.h0, a0.h1, ...`, layer by layer: [A]."""
        return [f"a{layer}.h{head}" for layer, head in self.heads]

    @cached_property
    def head_sources(self) -> torch.Tensor:
        """Source index of every head, in the order of `head_names`: int64 [A]."""
        return torch.tensor([self.head_source(*head) for head in self.heads], dtype=torch.int64)

    @cached_property
    def head_layers(self) -> torch.Tensor:
        """Layer of every head: int64 [A]."""
        return torch.tensor([layer for layer, _ in self.heads], dtype=torch.int64)

    def grid(self, values: torch.Tensor, fill: float = float("nan")) -> torch.Tensor:
        """Values of the heads as a rectangle, `fill` where a layer has no such head.

        [..., A] -> [..., L, H]
        """
        out = values.new_full((*values.shape[:-1], self.n_layers * self.n_heads), fill)
        places = [layer * self.n_heads + head for layer, head in self.heads]
        out[..., torch.tensor(places, dtype=torch.int64)] = values
        return out.unflatten(-1, (self.n_layers, self.n_heads))

    @cached_property
    def source_layers(self) -> torch.Tensor:
        """Layer of every source, 0 for `input`: int64 [S]."""
        return torch.tensor(self._sources.layers, dtype=torch.int64)

    @cached_property
    def destination_layers(self) -> torch.Tensor:
        """Layer of every destination, L for `logits`: int64 [D]."""
        widths = torch.tensor(self._columns).diff()
        layers = torch.arange(self.n_layers).repeat_interleave(widths)
        return torch.cat([layers, torch.tensor([self.n_layers])])

    @cached_property
    def edge_mask(self) -> torch.Tensor:
        """True where an edge exists: bool [S, D]."""
        mask = torch.zeros(self.n_sources, self.n_destinations, dtype=torch.bool)
        for layer, shape in enumerate(self.shapes):
            column = self._columns[layer]
            for side in shape.sides:
                mask[: self.sources_at(layer, side.reads), column : column + len(side.feeds)] = True
                column += len(side.feeds)
            for index, node in enumerate(shape.nodes):
                mask[: self.sources_at(layer, max(node.reads)), column + index] = True
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
        """Which nodes a destination feeds: bool [D, N]; what several heads share, all of them."""
        feeds = torch.zeros(self.n_destinations, self.n_sources + 1, dtype=torch.bool)
        for layer, shape in enumerate(self.shapes):
            column = self._columns[layer]
            for heads in (heads for side in shape.sides for heads in side.feeds):
                feeds[column, [self.head_source(layer, head) for head in heads]] = True
                column += 1
            for index in range(len(shape.nodes)):
                feeds[column + index, self.node_source(layer, index)] = True
        feeds[-1, -1] = True
        return feeds

    def names_of(self, heads: torch.Tensor) -> list[str]:
        """Names of the heads where a mask [A] is true."""
        return [self.head_names[index] for index in heads.nonzero().flatten().tolist()]

    def edge_name(self, edge: int) -> str:
        source, destination = self.edges[edge].tolist()
        return f"{self.source_names[source]}->{self.destination_names[destination]}"

    def parse_head(self, text: str) -> Head:
        """Layer and head of `a3.h2` or `L3H2`; ValueError if it is neither or out of range.

        >>> Graph(n_layers=4, n_heads=8, n_kv_heads=4).parse_head("L3H2")
        (3, 2)
        """
        found = _HEAD.match(text.strip())
        if not found:
            raise ValueError(f"{text!r} is not a head; write a3.h2 or L3H2")
        layer, head = (int(part) for part in found.groups() if part is not None)
        if (layer, head) in self.head_index:
            return layer, head
        raise ValueError(f"no head {text}: {self._has(layer)}")

    def _has(self, layer: int) -> str:
        """What there is in place of a head that is not there."""
        if not self.heads:
            return "the model has no attention heads"
        if layer >= self.n_layers or self.layers is None:
            heads = f" and heads 0-{self.n_heads - 1}" if self.layers is None else ""
            return f"the model has layers 0-{self.n_layers - 1}{heads}"
        count = self.heads_in(layer)
        return f"layer {layer} has {f'heads 0-{count - 1}' if count else 'no heads'}"


class _Sources:
    """Where the sources of layers stand: by name, by layer and head, by layer and node."""

    def __init__(self, shapes: tuple[LayerShape, ...]) -> None:
        self.names, self.layers = ["input"], [0]
        self.heads: list[list[int]] = []
        self.nodes: list[list[int]] = []
        self.written: list[list[int]] = []  # sources at each point of each layer
        for layer, shape in enumerate(shapes):
            self._add(layer, shape)

    def _add(self, layer: int, shape: LayerShape) -> None:
        before = len(self.names)
        at_point = [before] + [0] * shape.points
        first = list(accumulate((part.count for part in shape.heads), initial=0))
        heads, nodes, node_names = (
            [0] * shape.n_heads,
            [0] * len(shape.nodes),
            shape.node_names(layer),
        )
        for point, is_node, index, count in shape.order:
            place = len(self.names)
            if is_node:
                nodes[index] = place
                self.names.append(node_names[index])
            else:
                own = range(first[index], first[index] + count)
                heads[own.start : own.stop] = range(place, place + count)
                self.names += [f"a{layer}.h{head}" for head in own]
            at_point[point] += count
        self.layers += [layer] * (len(self.names) - before)
        self.heads.append(heads)
        self.nodes.append(nodes)
        self.written.append(list(accumulate(at_point)))


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

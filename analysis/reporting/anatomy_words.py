"""The anatomy of a model in words: layer by layer.

Layers that are alike are told once. A part is named as in the graph, without the number of the
layer (`a` the heads, `m` an MLP, `m.1` a second one, `x` a mixer of tokens without heads), with the
classes of its modules, what it reads, and what its output passes on the way into the stream.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.reporting.text import WIDTH

if TYPE_CHECKING:
    from analysis.models.anatomy import Anatomy, Block, Heads, Node, Norm, Tap
    from analysis.models.graph import Graph, LayerShape, SideShape
    from analysis.models.maps import Map

Experts = Mapping[int, tuple[int, int]]  # layer -> experts of a token, and of how many
Told = list[tuple[list[int], tuple[tuple[str, str], ...]]]  # layers, and their parts: name, words

_LETTERS = {"q": "queries", "k": "keys", "v": "values", "g": "gates"}
_TOGETHER = "inputs"  # rows of one head that no one can tell apart


def alike(parts: Anatomy, experts: Experts) -> Told:
    """Sets of layers that are alike, each with the names of its parts and a sentence on each."""
    found: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for block in parts.blocks:
        shape, own = parts.graph.shapes[block.layer], experts.get(block.layer)
        layer = _Layer(block, shape, own, scales=parts.gauge is None)
        found.setdefault(tuple(layer.parts()), []).append(block.layer)
    return [(layers, told) for told, layers in found.items()]


def layers_in_words(told: Told) -> list[str]:
    """The same as lines of WIDTH columns."""
    lines = []
    for layers, parts in told:
        lines.append(f"{'layers' if len(layers) > 1 else 'layer'} {numbers(layers)}")
        for name, words in parts:
            head = f"  {name:<3} "
            indent = " " * len(head)
            lines += textwrap.wrap(words, WIDTH, initial_indent=head, subsequent_indent=indent)
    return lines


def numbers(found: Sequence[int]) -> str:
    """Numbers in order, with runs of three or more as their ends.

    >>> numbers([0, 1, 2, 3, 6, 8, 9])
    '0-3, 6, 8, 9'
    """
    runs: list[list[int]] = []
    for number in found:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = (f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
    return ", ".join(words)


@dataclass(frozen=True)
class _Layer:
    block: Block
    shape: LayerShape
    experts: tuple[int, int] | None
    scales: bool  # whether outputs are told with what they are multiplied with

    @property
    def names(self) -> list[str]:
        """Of the nodes, without the number of the layer."""
        return [name.replace("0", "", 1) for name in self.shape.node_names(0)]

    def parts(self) -> Iterator[tuple[str, str]]:
        """Name and sentence of each."""
        for heads in self.block.heads:
            yield "a", self.heads(heads)
        for name, node in zip(self.names, self.block.nodes, strict=True):
            yield name, self.node(node)

    def heads(self, heads: Heads) -> str:
        from analysis.models.linear import linear_map

        width = linear_map(heads.o_proj).shape[1] // heads.n_heads
        kind = " of linear attention" if heads.kind == "linear" else ""
        own = range(heads.first, heads.first + heads.n_heads)
        reads, sides = [], iter(self.shape.sides)
        for reading in self.block.readings:
            own_sides = [next(sides) for _ in reading.sides]
            if any(head in own for side in own_sides for feeds in side.feeds for head in feeds):
                what = _destinations(own_sides)
                reads.append(f"{what}, of {self.behind(reading.norm, reading.point)}")
        through = (
            "a linear module" if heads.linear_after is not None else norm_in_words(heads.after)
        )
        return (
            f"{heads.n_heads} heads of width {width}{kind} ({type(heads.attention).__name__}): "
            f"{'; '.join(reads)}{self.written([heads.scale], through)}"
        )

    def node(self, node: Node) -> str:
        kind = "MLP" if node.letter == "m" else "mixer of tokens without heads"
        if self.experts is not None and node.letter == "m":
            kind = f"mixture of {self.experts[1]} experts, {self.experts[0]} for a token"
        names = dict.fromkeys(type(one).__name__ for one in _modules(node) or self.others())
        reads = _all_of(list(dict.fromkeys(self.tap(tap) for tap in node.taps)))
        norms = {_its_norm(module) for module, _ in node.writes if _is_norm(module)}
        written = self.written([scale for _, scale in node.writes], " and ".join(sorted(norms)))
        return f"{kind} ({', '.join(names) or 'code of the layer'}) of {reads}{written}"

    def others(self) -> list[Any]:
        """The layer's own modules that are known for no part; between norms only they compute."""
        known = {heads.attention for heads in self.block.heads}
        known |= {module for node in self.block.nodes for module in _modules(node)}
        own = self.block.module.children()
        return [one for one in own if not _is_norm(one) and not known & set(one.modules())]

    def tap(self, tap: Tap) -> str:
        """What a node reads; a norm that only it reads through is the tap's module itself."""
        if tap.norm is None and _is_norm(tap.module):
            return f"{_its_norm(tap.module)} of {self.stream(tap.point)}"
        return self.behind(tap.norm, tap.point)

    def behind(self, norm: Norm | Map | None, point: int) -> str:
        """`an RMSNorm of what enters the layer`."""
        return (f"{norm_in_words(norm)} of " if norm is not None else "") + self.stream(point)

    def stream(self, point: int) -> str:
        """The stream at a point, by what was added last."""
        added = ["the heads" for part in self.shape.heads if part.writes == point]
        nodes = zip(self.names, self.shape.nodes, strict=True)
        added += [name for name, node in nodes if node.writes == point]
        if point == 0 or not added:
            return "what enters the layer"
        return f"the stream after {_all_of(list(dict.fromkeys(added)))}"

    def written(self, scales: Sequence[Any], through: str) -> str:
        """What an output passes on the way into the stream."""
        words = f"; written through {through}" if through else ""
        if not self.scales or all(isinstance(scale, float) and scale == 1.0 for scale in scales):
            return words
        known = {scale for scale in scales if isinstance(scale, float)}
        if len(known) == 1 and all(isinstance(scale, float) for scale in scales):
            return f"{words}; times {known.pop():.3g}"
        return f"{words}; times numbers of the layer's own"


def _modules(node: Node) -> list[Any]:
    """The modules that a node reads and writes through, without norms."""
    both = [*(tap.module for tap in node.taps), *(module for module, _ in node.writes)]
    return [module for module in both if not _is_norm(module)]


def _destinations(sides: Sequence[SideShape]) -> str:
    """`queries and gates for each head, keys and values for each 2 heads`."""
    groups: dict[str, list[str]] = {}
    for side in sides:
        sizes = {len(feeds) for feeds in side.feeds}
        if side.of == "*":
            owner = "all heads together"
        elif len(sizes) > 1:
            owner = "groups of heads"
        else:
            size = sizes.pop()
            owner = "each head" if size == 1 else f"each {size} heads"
        words = groups.setdefault(owner, [])
        if (word := letters_in_words(side.letter)) not in words:
            words.append(word)
    return ", ".join(f"{_all_of(words)} for {owner}" for owner, words in groups.items())


def letters_in_words(letter: str) -> str:
    """`queries`; `rows of keys and values` for rows that serve both.

    >>> letters_in_words("kv")
    'rows of keys and values'
    """
    if letter in _LETTERS:
        return _LETTERS[letter]
    if set(letter) <= set(_LETTERS):
        return f"rows of {_all_of([_LETTERS[one] for one in letter])}"
    return _TOGETHER


def norm_in_words(norm: Norm | Map | None) -> str:
    """`an RMSNorm`, `a LayerNorm without a weight`; nothing for None."""
    from analysis.models.maps import Map

    if norm is None:
        return ""
    if isinstance(norm, Map):
        return f"a map of each token ({type(norm.module).__name__})"
    kind = "a LayerNorm" if norm.centred else "an RMSNorm"
    return kind + (" without a weight" if norm.weight is None else "")


def _its_norm(module: Any) -> str:
    """A norm that belongs to one node only, by its class."""
    name = type(module).__name__
    if name.endswith("RMSNorm"):
        return "an RMSNorm"
    return "a LayerNorm" if name.endswith("LayerNorm") else f"a norm ({name})"


def _is_norm(module: Any) -> bool:
    return all(parameter.ndim < 2 for parameter in module.parameters())


def _all_of(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def graph_in_words(graph: Graph) -> str:
    """Sources, destinations by kind, and edges."""
    heads = Counter(graph.head_kinds)
    of_linear = f" ({heads['linear']} of linear attention)" if heads["linear"] else ""
    into = destinations_in_words(destination_kinds(graph))
    return (
        f"{graph.n_sources} sources: the input, {graph.n_heads_total} heads{of_linear} and "
        f"{graph.n_sources - 1 - graph.n_heads_total} nodes. {graph.n_destinations} destinations: "
        f"{into}. {graph.n_edges} edges."
    )


def destinations_in_words(kinds: Mapping[str, int]) -> str:
    """`8 <q>, 4 <k>, 4 <v>, 2 m and the logits`."""
    counted = [f"{count} {kind}" for kind, count in kinds.items() if kind != "logits"]
    return _all_of([*counted, "the logits"])


def destination_kinds(graph: Graph) -> dict[str, int]:
    """How many destinations of each kind there are: `<q>`, `<*kv>` (shared by all heads), `m`."""
    kinds: Counter[str] = Counter()
    for shape in graph.shapes:
        for side in shape.sides:
            shared = "*" if side.of == "*" else ""
            kinds[f"<{shared}{side.letter}>"] += len(side.feeds)
        kinds.update(node.letter for node in shape.nodes)
    return {**kinds, "logits": 1}

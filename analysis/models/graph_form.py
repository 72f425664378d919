"""A graph as files hold it (`Graph.as_json`), read back and checked.

    {"n_layers": 4, "n_heads": 8, "n_kv_heads": 2, "kv": "grouped"}            the regular graph
    {..., "shapes": [shape, ...], "layers": [0, 0, 0, 1]}     another: which of the shapes each is

A shape is a `LayerShape`. Nothing large is made before the sizes are looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from analysis.files import as_form
from analysis.models.graph import Graph, LayerShape

MAX_HEADS = 2**15  # twice as many as the largest models have
MAX_CELLS = 2**32  # sources x destinations
_KINDS = ("softmax", "linear")
_OF = ("h", "kv", "*", "+")
_NODES = ("m", "x")


@dataclass(frozen=True)
class GraphForm:
    """What a file says of a graph; it may be wrong."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    kv: str = "grouped"
    shapes: tuple[LayerShape, ...] | None = None
    layers: tuple[int, ...] | None = None

    def graph(self, path: Path) -> Graph:
        """The graph; ValueError, with the file, if there is none such."""
        try:
            return _graph(self)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def graph_from(content: object, path: Path) -> Graph:
    """The graph that a file holds.

    Raises:
        ValueError: it has another form, or there is no such graph; with the file and the place.
    """
    return as_form(content, GraphForm, path).graph(path)


def _graph(form: GraphForm) -> Graph:
    sizes = (form.n_layers, form.n_heads, form.n_kv_heads)
    if (form.shapes is None) != (form.layers is None):
        raise ValueError("a graph has shapes and layers, or neither")
    if form.shapes is None or form.layers is None:
        if min(sizes) < 1 or form.n_layers * form.n_heads > MAX_HEADS:
            raise ValueError(f"there is no model of {sizes[0]} layers with {sizes[1]} heads")
        return Graph(*sizes, form.kv)
    for index, shape in enumerate(form.shapes):
        if wrong := _wrong(shape):
            raise ValueError(f"shape {index} of the layers {wrong}")
    if odd := [at for at in form.layers if not 0 <= at < len(form.shapes)]:
        raise ValueError(f"a layer has the shape {odd[0]}, and there are {len(form.shapes)}")
    if form.n_kv_heads < 0:
        raise ValueError(f"n_kv_heads is {form.n_kv_heads}")
    layers = tuple(form.shapes[at] for at in form.layers)
    heads = sum(layer.n_heads for layer in layers)
    written = heads + sum(len(layer.nodes) for layer in layers) + 1
    read = sum(layer.n_destinations for layer in layers) + 1
    if heads > MAX_HEADS or written * read > MAX_CELLS:
        raise ValueError(f"{written} sources and {read} destinations are more than any model has")
    return Graph(*sizes, form.kv, layers)


def _wrong(shape: LayerShape) -> str | None:
    """What a layer can't be, to follow its name; None if all of it can be."""
    points = range(shape.points + 1)
    if not 0 <= shape.points <= MAX_HEADS:
        return f"has {shape.points} points"
    if not shape.heads and not shape.nodes:
        return "has neither heads nor nodes"
    for part in shape.heads:
        if part.count < 1 or part.kind not in _KINDS or part.writes not in points[1:]:
            return f"has {part.count} heads of kind {part.kind!r} that write at {part.writes}"
    if shape.n_heads > MAX_HEADS:
        return f"has {shape.n_heads} heads"
    return _wrong_sides(shape, points) or _wrong_nodes(shape, points)


def _wrong_sides(shape: LayerShape, points: range) -> str | None:
    writes = [part.writes for part in shape.heads for _ in range(part.count)]
    for side in shape.sides:
        if not re.fullmatch("[a-z]{1,8}", side.letter) or side.of not in _OF or side.first < 0:
            return f"has destinations {side.letter!r} of {side.of!r}"
        if not side.feeds or side.reads not in points:
            return f"has {len(side.feeds)} destinations <{side.letter}> that read at {side.reads}"
        for heads in side.feeds:
            if not heads or any(head not in range(len(writes)) for head in heads):
                return f"has a <{side.letter}> of heads {list(heads)}, and {len(writes)} heads"
            if (side.of == "h" and len(heads) > 1) or len(set(heads)) < len(heads):
                return f"has a <{side.letter}> of heads {list(heads)}, named as of one"
            if min(writes[head] for head in heads) <= side.reads:
                return f"has a <{side.letter}> that reads at {side.reads} what its heads write"
    return None


def _wrong_nodes(shape: LayerShape, points: range) -> str | None:
    for node in shape.nodes:
        reads = node.reads
        if node.letter not in _NODES or not reads or any(at not in points for at in reads):
            return f"has a node {node.letter!r} that reads at {list(reads)}"
        if node.writes not in points or node.writes <= max(reads):
            return f"has a node {node.letter!r} that reads at {list(reads)}, writes {node.writes}"
    return None

"""How heads of linear attention and of state-space models are told from those of softmax attention.

Where a model has both, tables of heads have a column for the kind, and texts a note that says which
heads are linear; where it has none of them, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.models.graph import Graph

LINEAR = "linear"


def has_linear(graph: Graph) -> bool:
    return LINEAR in graph.head_kinds


def kind_title(graph: Graph) -> list[str]:
    """The title of the column, if there is one."""
    return ["kind"] if has_linear(graph) else []


def kind_cell(graph: Graph, head: int) -> list[str]:
    """The cell of a head, by its place in `graph.heads`, if there is a column."""
    return [graph.head_kinds[head]] if has_linear(graph) else []


def kinds_note(graph: Graph) -> str:
    """Which heads are linear, as a sentence; empty if none is.

    >>> from analysis.models.graph import Graph, HeadsShape, LayerShape
    >>> layer = LayerShape(1, (HeadsShape(2, 1), HeadsShape(3, 1, "linear")), (), ())
    >>> kinds_note(Graph.of((layer,), 0))
    'Linear attention or state space: heads L0H2-4.'
    """
    if not has_linear(graph):
        return ""
    whole = [i for i, shape in enumerate(graph.shapes) if {*shape.kinds} == {LINEAR}]
    some = [
        f"L{layer}H{_ranges([h for h, kind in enumerate(shape.kinds) if kind == LINEAR])}"
        for layer, shape in enumerate(graph.shapes)
        if LINEAR in shape.kinds and layer not in whole
    ]
    parts = [f"all heads of layer{'s' * (len(whole) > 1)} {_ranges(whole)}"] if whole else []
    parts += [f"heads {', '.join(some)}"] if some else []
    return f"Linear attention or state space: {' and '.join(parts)}."


def _ranges(numbers: Sequence[int]) -> str:
    """`0-2, 4`."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)

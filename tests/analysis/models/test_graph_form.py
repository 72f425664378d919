"""Graphs that are not regular: what layers have, and what a file may say of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.models.graph import Graph
from analysis.models.graph_form import graph_from
from tests.support.graphs import graph_without_heads, ragged_graph

FILE = Path("record.json")
GRAPH = ragged_graph()


def written(graph: Graph) -> dict[str, Any]:
    """As it stands in a file."""
    content: dict[str, Any] = json.loads(json.dumps(graph.as_json()))
    return content


def test_heads_of_ragged_layers() -> None:
    assert [GRAPH.heads_in(layer) for layer in range(5)] == [4, 3, 0, 2, 4]
    assert GRAPH.n_heads_total == 13 == len(set(GRAPH.head_sources.tolist()))
    assert [GRAPH.head_names[GRAPH.head_index[head]] for head in ((1, 2), (3, 0), (4, 3))] == [
        *("a1.h2", "a3.h0", "a4.h3"),
    ]
    assert GRAPH.head_kinds == ["softmax"] * 4 + ["linear"] * 3 + ["softmax"] * 4 + ["linear"] * 2
    grid = GRAPH.grid(torch.arange(13.0))
    assert grid.isnan().sum(1).tolist() == [0, 1, 4, 2, 0]
    assert grid[3].tolist()[:2] == [7.0, 8.0]
    assert graph_without_heads().grid(torch.zeros(2, 0)).shape == (2, 3, 0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("L1H3", "no head L1H3: layer 1 has heads 0-2"),
        ("a2.h0", "no head a2.h0: layer 2 has no heads"),
        ("L5H0", "no head L5H0: the model has layers 0-4"),
    ],
)
def test_a_head_that_its_layer_does_not_have(head: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        GRAPH.parse_head(head)
    assert str(caught.value) == message
    with pytest.raises(ValueError, match="the model has no attention heads"):
        graph_without_heads().parse_head(head)


@pytest.mark.parametrize("graph", [Graph(2, 4, 2), GRAPH, graph_without_heads()], ids=str)
def test_a_graph_is_read_as_it_was_written(graph: Graph) -> None:
    found = graph_from(written(graph), FILE)
    assert found == graph
    assert found.destination_names == graph.destination_names
    assert "\n" not in str(graph)
    assert len(str(graph)) < 100


def test_files_of_regular_graphs_have_four_numbers() -> None:
    numbers = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "kv": "grouped"}
    assert written(Graph(2, 4, 2)) == numbers
    assert str(Graph(2, 4, 2)) == "Graph(n_layers=2, n_heads=4, n_kv_heads=2, kv='grouped')"
    assert len(written(Graph.of(GRAPH.shapes[:1] * 48, 2))["shapes"]) == 1


Damage = Callable[[dict[str, Any]], object]
BROKEN: dict[str, tuple[Damage, str]] = {
    "text": (lambda g: g.update(n_layers="5"), "Expected `int`"),
    "no shapes": (lambda g: g.pop("shapes"), "shapes and layers, or neither"),
    "no layers": (lambda g: g.pop("layers"), "shapes and layers, or neither"),
    "kv": (lambda g: g.update(kv="some"), "unknown kv 'some'"),
    "kv heads": (lambda g: g.update(n_kv_heads=-1), "n_kv_heads is -1"),
    "number of layers": (lambda g: g.update(n_layers=6), "6 layers .* and there are 5"),
    "number of heads": (lambda g: g.update(n_heads=3), "up to 3 heads .* of up to 4"),
    "no such shape": (lambda g: g["layers"].append(5), "the shape 5, and there are 5"),
    "shape before": (lambda g: g["layers"].append(-1), "the shape -1"),
    "many": (lambda g: g.update(layers=g["layers"] * 10**4), "more than any model has"),
    "points": (lambda g: g["shapes"][0].update(points=-1), "shape 0 of the layers has -1 points"),
    "nothing": (lambda g: g["shapes"][2].update(nodes=[]), "shape 2 .* neither heads nor nodes"),
    "negative": (lambda g: g["shapes"][1]["heads"][0].update(count=-3), "shape 1 .* has -3 heads"),
    "kind": (lambda g: g["shapes"][1]["heads"][0].update(kind="odd"), "heads of kind 'odd'"),
    "heads at 0": (lambda g: g["shapes"][0]["heads"][0].update(writes=0), "that write at 0"),
    "heads above": (lambda g: g["shapes"][0]["heads"][0].update(writes=9), "that write at 9"),
    "letter": (lambda g: g["shapes"][0]["sides"][0].update(letter="<b>"), "destinations '<b>'"),
    "of": (lambda g: g["shapes"][0]["sides"][0].update(of="some"), "destinations 'q' of 'some'"),
    "no feeds": (lambda g: g["shapes"][0]["sides"][0].update(feeds=[]), "has 0 destinations <q>"),
    "reads": (lambda g: g["shapes"][0]["sides"][0].update(reads=7), "<q> that read at 7"),
    "feeds none": (lambda g: g["shapes"][0]["sides"][0]["feeds"].append([]), r"<q> of heads \[\]"),
    "feeds others": (lambda g: g["shapes"][0]["sides"][0]["feeds"].append([4]), "and 4 heads"),
    "feeds two": (lambda g: g["shapes"][0]["sides"][0]["feeds"].append([0, 1]), "named as of one"),
    "own": (lambda g: g["shapes"][0]["sides"][0].update(reads=1), "reads at 1 what its heads"),
    "node": (lambda g: g["shapes"][0]["nodes"][0].update(letter="y"), "has a node 'y'"),
    "reads none": (lambda g: g["shapes"][0]["nodes"][0].update(reads=[]), r"reads at \[\]"),
    "reads above": (lambda g: g["shapes"][0]["nodes"][0].update(reads=[3]), r"reads at \[3\]"),
    "loop": (lambda g: g["shapes"][0]["nodes"][0].update(writes=1), r"at \[1\], writes 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_graph_that_can_not_be_is_refused(name: str) -> None:
    damage, message = BROKEN[name]
    content = written(GRAPH)
    damage(content)
    with pytest.raises(ValueError, match=message) as caught:
        graph_from(content, FILE)
    assert str(caught.value).startswith("record.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sizes", [(0, 4, 2), (10**6, 4, 2), (2, 0, 0), (2, -4, 2), (2, 4, 3)])
def test_a_regular_graph_that_can_not_be_is_refused(sizes: tuple[int, int, int]) -> None:
    content = dict(zip(("n_layers", "n_heads", "n_kv_heads"), sizes, strict=True))
    with pytest.raises(ValueError, match=r"record\.json: "):
        graph_from(content, FILE)

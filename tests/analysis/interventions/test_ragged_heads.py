"""Sets of heads of models whose layers have different heads, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.evaluation.setup import _check_same_shape
from analysis.interventions.head_sets import parse_heads, parse_intervention
from analysis.interventions.random_sets import matched_random_sets
from analysis.models.graph import Graph, Head
from analysis.models.unlike import unlike_heads
from tests.support.graphs import graph_without_heads, mixer_layer, ragged_graph, two_attentions
from tests.support.planted_runs import configure, plant

GRAPH = ragged_graph()
KINDS = dict(zip(GRAPH.heads, GRAPH.head_kinds, strict=True))


def kinds_by_layer(heads: list[Head]) -> list[tuple[int, str]]:
    return sorted((layer, KINDS[layer, head]) for layer, head in heads)


def test_heads_are_named_by_layer_and_head() -> None:
    assert parse_heads("L4H3,a1.h2,L4H3", GRAPH) == [(4, 3), (1, 2)]
    for text, message in (
        ("L1H3", "no head L1H3: layer 1 has heads 0-2"),
        ("L2H0", "no head L2H0: layer 2 has no heads"),
    ):
        with pytest.raises(ValueError) as caught:
            parse_intervention(f"zero:L0H0,{text}", GRAPH)
        assert str(caught.value) == message


def test_heads_of_a_run(tmp_path: Path) -> None:
    run = configure(tmp_path / "run")
    plant(run, 0, ["a0.h3", "a3.h1"], graph=GRAPH)
    plant(run, 10, ["a3.h1", "a4.h2"], graph=GRAPH)
    assert set(parse_heads(f"{run}@last", GRAPH)) == {(3, 1), (4, 2)}
    assert parse_heads(f"{run}@10:emergent", GRAPH) == [(4, 2)]
    assert parse_heads(f"{run}@10:pruned", GRAPH) == [(0, 3)]
    with pytest.raises(ValueError) as caught:
        parse_heads(f"{run}@10", Graph(5, 4, 2))
    said = "is of a model that has 3 linear heads in layer 1, and this one has 4 heads in layer 1"
    assert str(caught.value).endswith(said)


UNLIKE = [
    (Graph(2, 4, 2), Graph(3, 4, 2), "2 layers with 4 heads", "3 layers with 4 heads"),
    (GRAPH, Graph(6, 4, 2), "5 layers with 0 to 4 heads", "6 layers with 4 heads"),
    (GRAPH, Graph(5, 4, 2), "3 linear heads in layer 1", "4 heads in layer 1"),
    (
        Graph.of((two_attentions(), mixer_layer()), 1),
        Graph.of((mixer_layer(), two_attentions()), 1),
        "2 softmax and 2 linear heads in layer 0",
        "0 heads in layer 0",
    ),
]


@pytest.mark.parametrize(("one", "two", "of_one", "of_two"), UNLIKE)
def test_what_heads_differ_in(one: Graph, two: Graph, of_one: str, of_two: str) -> None:
    assert unlike_heads(one, two) == (of_one, of_two)
    assert unlike_heads(two, one) == (of_two, of_one)
    with pytest.raises(ValueError, match=f"the base has {of_one}, and the model {of_two}; give a"):
        _check_same_shape(one, two)


def test_heads_of_one_shape_are_comparable_whatever_reads_them() -> None:
    assert unlike_heads(Graph(2, 4, 2), Graph(2, 4, 4)) is None
    assert unlike_heads(GRAPH, ragged_graph()) is None
    assert unlike_heads(graph_without_heads(), graph_without_heads()) is None


def test_random_sets_have_as_many_heads_of_a_kind_in_each_layer() -> None:
    heads = [(0, 1), (0, 3), (1, 0), (4, 0), (4, 3)]
    for found in matched_random_sets(heads, GRAPH, 4, seed=0):
        assert not set(found) & set(heads)
        assert kinds_by_layer(found) == kinds_by_layer(heads)


def test_where_a_layer_has_too_few_the_nearest_with_such_heads_give_the_rest() -> None:
    found = matched_random_sets([(3, 0), (3, 1)], GRAPH, 6, seed=0)  # all of layer 3
    for heads in found:
        assert kinds_by_layer(heads) == [(4, "softmax")] * 2  # and not those of kind linear
    for heads in matched_random_sets([(1, 0), (1, 1)], GRAPH, 6, seed=0):
        assert kinds_by_layer(heads) == [(1, "linear"), (4, "linear")]


def test_no_random_set_where_a_kind_is_used_up() -> None:
    with pytest.raises(ValueError, match="the set holds 3 of 5 linear heads, so there is no rand"):
        matched_random_sets([(1, 0), (1, 1), (1, 2), (0, 0)], GRAPH, 2, seed=0)

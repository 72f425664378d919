"""An anatomy in words, on shapes written by hand and on tiny models."""

from __future__ import annotations

import pytest

from analysis.detection.detect import anatomy
from analysis.models.graph import Graph, HeadsShape, LayerShape, NodeShape, SideShape
from analysis.reporting.anatomy_features import special
from analysis.reporting.anatomy_words import (
    alike,
    destination_kinds,
    graph_in_words,
    layers_in_words,
    letters_in_words,
    numbers,
)
from analysis.reporting.text import WIDTH
from tests.support.models import tiny_model


def test_a_regular_model_is_told_in_one_group():
    parts = anatomy(tiny_model("llama"))
    assert layers_in_words(alike(parts, {})) == [
        "layers 0, 1",
        "  a   4 heads of width 8 (LlamaAttention): queries for each head, keys and",
        "      values for each 2 heads, of an RMSNorm of what enters the layer",
        "  m   MLP (LlamaMLP) of an RMSNorm of the stream after the heads",
    ]
    assert special(parts, {}) == []


def test_layers_that_differ_are_told_apart_and_experts_named():
    told = alike(anatomy(tiny_model("llama")), {1: (2, 8)})
    assert [layers for layers, _ in told] == [[0], [1]]
    assert "mixture of 8 experts, 2 for a token (LlamaMLP)" in told[1][1][1][1]


def test_what_is_unlike_a_llama_is_said():
    parts = anatomy(tiny_model("gpt2"))
    words = " ".join(layers_in_words(alike(parts, {})))
    assert "a LayerNorm of what enters the layer" in words
    assert special(parts, {0: (2, 8)}) == ["fused projection", "LayerNorm", "mixture of experts"]
    gemma = anatomy(tiny_model("gemma2"))
    _, ((_, heads), (_, mlp)) = alike(gemma, {})[0]
    assert heads.endswith("written through an RMSNorm")
    assert mlp.startswith("MLP (Gemma2MLP) of an RMSNorm of the stream after the heads; written")
    assert special(gemma, {}) == ["norm after the attention"]


def test_lines_are_as_wide_as_a_terminal():
    lines = layers_in_words(alike(anatomy(tiny_model("gemma2")), {}))
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize(
    ("found", "words"),
    [([0], "0"), ([0, 1], "0, 1"), ([0, 1, 2], "0-2"), ([1, 3, 4, 5, 9], "1, 3-5, 9")],
)
def test_numbers_of_layers(found, words):
    assert numbers(found) == words


@pytest.mark.parametrize(
    ("letter", "words"),
    [
        ("g", "gates"),
        ("qg", "rows of queries and gates"),
        ("qkv", "rows of queries, keys and values"),
        ("in", "inputs"),
    ],
)
def test_letters(letter, words):
    assert letters_in_words(letter) == words


def test_destinations_are_counted_by_kind():
    both = ((0, 1),)
    sides = SideShape("q", "h", 0, ((0,), (1,))), SideShape("kv", "*", 0, both)
    first = LayerShape(2, (HeadsShape(2, 1),), sides, (NodeShape("m", (1,), 2),))
    second = LayerShape(2, (), (), (NodeShape("x", (0,), 1), NodeShape("m", (1,), 2)))
    graph = Graph.of((first, second), 0)
    assert destination_kinds(graph) == {"<q>": 2, "<*kv>": 1, "m": 2, "x": 1, "logits": 1}
    assert graph_in_words(graph) == (
        "6 sources: the input, 2 heads and 3 nodes. 7 destinations: 2 <q>, 1 <*kv>, 2 m, 1 x and "
        f"the logits. {graph.n_edges} edges."
    )

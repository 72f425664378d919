"""Heads of linear attention are blocks of the output projection's columns, where that is proved."""

import pytest

from analysis.detection.build import build as build_anatomy
from analysis.detection.find import find
from tests.support.families.build import build
from tests.support.families.float64 import Float64


def anatomy_of(kind: str):
    model = build(kind)
    with Float64():
        return build_anatomy(find(model), model)


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("qwen3_5_text", [("linear", 4), ("softmax", 4), ("linear", 4), ("softmax", 4)]),
        ("mamba2", [("linear", 8), ("linear", 8)]),
        ("falcon_h1", [("softmax", 4), ("linear", 8)] * 2),  # side by side in one layer
        ("lfm2", [("softmax", 4), ("softmax", 4)]),  # channels of a convolution are no heads
        ("mamba", []),  # every channel reads what all read
    ],
)
def test_heads_of_mixers(kind: str, heads: list[tuple[str, int]]) -> None:
    parts = anatomy_of(kind)
    assert [(part.kind, part.n_heads) for _, part in parts.heads] == heads
    mixers = [name for name in parts.graph.source_names if name.startswith("x")]
    assert bool(mixers) == (kind in ("lfm2", "mamba"))


def test_keys_that_two_heads_share_feed_both() -> None:
    names = anatomy_of("qwen3_5_text").graph.destination_names
    assert {"a0.h0+h1<in>", "a0.h2+h3<in>", "a0.h3<in>#1"} <= set(names)
    assert "a0.*<in>" in anatomy_of("mamba2").graph.destination_names


def test_the_heads_of_a_layer_are_numbered_on() -> None:
    parts = anatomy_of("falcon_h1")
    assert [part.first for _, part in parts.heads] == [0, 4, 0, 4]
    assert parts.graph.head_kinds[:12] == ["softmax"] * 4 + ["linear"] * 8

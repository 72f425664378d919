"""An anatomy that is written by hand, and given: it is measured as a detected one is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis import attribute, evaluate_circuit, select_circuit
from analysis.detection.detect import anatomy
from analysis.heads.attention import pattern_scores
from analysis.heads.copying import copying
from analysis.interventions.baking import bake
from analysis.interventions.operations import Intervention, constants, intervened
from analysis.models.anatomy import (
    Anatomy,
    Block,
    Heads,
    Node,
    Norm,
    Projection,
    Reading,
    Tap,
    Unsupported,
)
from analysis.models.graph import Graph, HeadsShape, LayerShape, NodeShape, SideShape
from analysis.prompts.regions import find_regions
from tests.support.families.build import build
from tests.support.models import random_pairs

H, E = 4, 8


def by_hand(model: Any) -> Anatomy:
    """A GPT-NeoX: branches side by side, and [q, k, v] of each head after the other's."""
    each = tuple((head,) for head in range(H))
    shape = LayerShape(
        points=1,  # attention and MLP read what enters the layer, and both have arrived at its end
        heads=(HeadsShape(H, writes=1),),
        sides=(
            SideShape("q", "h", 0, each),
            SideShape("k", "kv", 0, each),
            SideShape("v", "kv", 0, each),
        ),
        nodes=(NodeShape("m", reads=(0,), writes=1),),
    )

    def norm(module: Any) -> Norm:
        return Norm(module, module.eps, centred=True)

    def block(index: int, layer: Any) -> Block:
        attention, before = layer.attention, norm(layer.input_layernorm)
        rows = torch.arange(3 * H * E).view(H, 3, E)
        sides = tuple(
            Projection(attention.query_key_value, rows[:, place], H * place, letter)
            for place, letter in enumerate("qkv")
        )
        return Block(
            index,
            layer,
            (Reading(before, before.module, sides),),
            (Heads(attention, attention.dense, H),),
            (Node("m", (Tap(layer.post_attention_layernorm, 0),), ((layer.mlp, 1.0),), 1),),
        )

    decoder = model.gpt_neox
    return Anatomy(
        causal_lm=model,
        decoder=decoder,
        embedding=decoder.embed_in,
        layers=decoder.layers,
        blocks=tuple(block(index, layer) for index, layer in enumerate(decoder.layers)),
        graph=Graph.of((shape,) * len(decoder.layers), H),
        width=model.config.hidden_size,
        final_norm=norm(decoder.final_layer_norm),
    )


def test_a_hand_written_anatomy_is_measured_as_a_detected_one():
    model, pairs = build("gpt_neox"), random_pairs(2, (6, 5))
    parts, found = by_hand(model), anatomy(model)
    assert parts.graph == found.graph
    scores = attribute(model, pairs, ig_steps=2, parts=parts)
    wanted = attribute(model, pairs, ig_steps=2, parts=found)
    assert torch.equal(scores.per_pair, wanted.per_pair)
    circuit = select_circuit(scores, fraction=0.3)
    faithful = evaluate_circuit(model, pairs, circuit, parts=parts)
    assert torch.equal(
        faithful.circuit, evaluate_circuit(model, pairs, circuit, parts=found).circuit
    )
    regions = find_regions(pairs, None).each
    assert not pattern_scores(model, pairs, regions, parts=parts)[:, 0].isnan().any()
    assert copying(model, parts).abs().max() <= 1
    change = Intervention("mean", ((0, 1), (1, 2)))
    added = constants(model, change, [[5, 6, 7]], parts=parts)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        with intervened(model, change, added, parts):
            live = model(ids).logits
        baked = bake(model, change, added, find=by_hand)
        torch.testing.assert_close(baked(ids).logits, live)


def test_a_wrong_one_is_found_out():
    model, pairs = build("gpt_neox"), random_pairs(1)
    parts = by_hand(model)
    (reading,) = parts.blocks[0].readings
    norm = replace(reading.norm, centred=False)
    block = replace(parts.blocks[0], readings=(replace(reading, norm=norm),))
    wrong = replace(parts, blocks=(block, *parts.blocks[1:]))
    with pytest.raises(Unsupported, match="layer 0: the q projection .* do not add up"):
        attribute(model, pairs, parts=wrong)
    with pytest.raises(ValueError, match="anatomy that is given is grouped, and kv is ungrouped"):
        attribute(model, pairs, kv="ungrouped", parts=parts)

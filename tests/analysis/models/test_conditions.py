"""The conditions that models are in: compiled, wrapped, offloaded, with other kinds of weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import peft
import pytest
import torch
from torch import nn

from analysis import Circuit, Intervention, attribute, evaluate_circuit, head_roles, intervened
from analysis.interventions.baking import bake
from analysis.interventions.operations import constants
from analysis.models.provenance import weight_hashes
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from tests.support.models import random_pairs, tiny_model

IDS = torch.arange(3, 9)[None]
ZERO = Intervention("zero", ((1, 2),))


def in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def by_layer(model: Any) -> Any:
    layers = model.model.layers
    for index, layer in enumerate(layers):
        layers[index] = torch.compile(layer, backend="eager")
    return model


# what may stand around a model; `eager` compiles graphs without generating code
AROUND: dict[str, Callable[[Any], Any]] = {
    "model.compile()": in_place,
    "torch.compile(model)": lambda model: torch.compile(model, backend="eager"),
    "compiled layers": by_layer,
    "DataParallel": nn.DataParallel,
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@cache
def plain_scores() -> Any:
    return attribute(tiny_model("qwen2"), random_pairs(), metric="logit_diff", ig_steps=2)


@pytest.mark.parametrize("around", AROUND)
def test_what_stands_around_a_model_changes_no_number(around):
    """Compiled code would pass hooks over: it was run before any was there."""
    model, plain, pairs = AROUND[around](tiny_model("qwen2")), tiny_model("qwen2"), random_pairs()
    before = logits(model)
    scores = attribute(model, pairs, metric="logit_diff", ig_steps=2)
    assert torch.equal(scores.per_pair, plain_scores().per_pair)
    empty = Circuit(scores.graph, torch.zeros(scores.graph.n_edges, dtype=torch.bool))
    found, expected = (evaluate_circuit(m, pairs, empty, "logit_diff") for m in (model, plain))
    assert torch.equal(found.circuit, expected.circuit) and torch.equal(found.full, expected.full)
    with intervened(model, ZERO), intervened(plain, ZERO):
        assert torch.equal(logits(model), logits(plain))
        assert not torch.allclose(logits(model), before)
    assert torch.equal(logits(model), before)
    assert weight_hashes(model) == weight_hashes(plain)
    roles = [repr(head_roles(m, pairs, resamples=2)) for m in (model, plain)]  # NaN is not NaN
    assert roles[0] == roles[1]
    assert torch.allclose(logits(bake(model, ZERO)), logits(bake(plain, ZERO)))


PROMPTS: dict[str, dict[str, Any]] = {
    "PromptTuningConfig": {},
    "PrefixTuningConfig": {},
    "PromptEncoderConfig": {"encoder_hidden_size": 8},
}
ENTRIES: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda model: attribute(model, random_pairs()),
    "evaluate_circuit": lambda model: evaluate_circuit(
        model, random_pairs(), Circuit(plain_scores().graph, plain_scores().graph.edge_mask[0])
    ),
    "intervened": lambda model: intervened(model, ZERO).__enter__(),
    "constants": lambda model: constants(model, Intervention("mean", ((0, 0),)), [[3, 4]]),
    "bake": lambda model: bake(model, ZERO),
    "head_roles": lambda model: head_roles(model, random_pairs()),
    "HeadTracker": lambda model: HeadTracker(
        "nowhere", random_pairs(), TrackingSettings(metric="logit_diff")
    )._attribute(model, False),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_learning_is_refused_wherever_heads_are_measured(entry, name):
    """What it learns is no part of the heads, and the base's circuit would be measured."""
    config = getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=3, **PROMPTS[name])
    model = peft.get_peft_model(tiny_model("qwen2", torch.float32), config)
    for given in (model, torch.compile(model, backend="eager"), nn.DataParallel(model)):
        with pytest.raises(ValueError, match="prompt learning: what it learns stands before"):
            ENTRIES[entry](given)

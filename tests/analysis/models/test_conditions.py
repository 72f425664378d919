"""The conditions that models are in: compiled, wrapped, offloaded, with other kinds of weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from analysis import Circuit, Intervention, attribute, evaluate_circuit, head_roles, intervened
from analysis.heads.columns import columns
from analysis.interventions.baking import bake
from analysis.interventions.operations import constants
from analysis.models.provenance import weight_hashes
from analysis.models.quantised import check_quantised
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker, not_finite
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


def on_disk(model: Any, place: Path) -> Any:
    """Half of the model on the CPU and half on the disk, as device_map has it."""
    from accelerate import dispatch_model

    parts = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "disk"}
    parts |= {"model.layers.0": "disk", "model.layers.1": "cpu", "lm_head": "disk"}
    return dispatch_model(model, parts, main_device="cpu", offload_dir=place, force_hooks=True)


def on_cpu(model: Any, place: Path) -> Any:
    """All weights on the CPU, for a device that has room for one module only."""
    from accelerate import cpu_offload

    return cpu_offload(model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("offload", [on_disk, on_cpu])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "lora"])
def test_offloaded_weights_give_the_same_numbers(offload, name, tmp_path):
    """Of qwen3 the two ends are one weight; the adapter is put on before."""

    def make() -> Any:
        model = tiny_model("qwen3" if name == "qwen3" else "qwen2")
        if name != "lora":
            return model
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False)
        return peft.get_peft_model(model, config).double().eval()

    model, plain, pairs = make(), make(), random_pairs()
    offload(model.base_model.model if name == "lora" else model, tmp_path)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    found, expected = (attribute(m, pairs, metric="logit_diff", ig_steps=2) for m in (model, plain))
    assert torch.equal(found.per_pair, expected.per_pair)
    empty = Circuit(found.graph, torch.zeros(found.graph.n_edges, dtype=torch.bool))
    kept = [evaluate_circuit(m, pairs, empty, "logit_diff").circuit for m in (model, plain)]
    assert torch.equal(*kept)
    with intervened(model, ZERO), intervened(plain, ZERO):
        assert torch.equal(logits(model), logits(plain))
    roles = [repr(head_roles(m, pairs, resamples=2)) for m in (model, plain)]
    assert roles[0] == roles[1]
    assert weight_hashes(model) == weight_hashes(plain)
    assert not_finite(model) is None
    assert any(parameter.is_meta for parameter in model.parameters())
    now = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {**now, **trained} == now  # a weight that was tied is two afterwards
    with pytest.raises(ValueError, match="is offloaded .*one device"):
        bake(model, ZERO)


def test_weights_without_values_are_named():
    from transformers import Qwen2ForCausalLM

    with torch.device("meta"):
        empty = Qwen2ForCausalLM(tiny_model("qwen2").config)
    with pytest.raises(ValueError, match="weight .* is on the meta device, where it has no values"):
        attribute(empty, random_pairs())


class Packed(nn.Module):
    """A linear module of whole numbers with a scale for each row, which it dequantises to use."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        scale = dense.weight.detach().abs().amax(1, keepdim=True) / 7
        codes = (dense.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = dense.bias

    @property
    def matrix(self) -> torch.Tensor:
        return self.weight.to(self.scale) * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.matrix.to(x), self.bias)


def quantise(model: Any) -> tuple[Any, Any]:
    """A model with packed weights in its layers, and one with the weights that they stand for."""
    dense, within = copy.deepcopy(model), dict(model.model.layers.named_modules())
    for name, module in within.items():
        if isinstance(module, nn.Linear):
            above, _, last = name.rpartition(".")
            packed = Packed(module)
            setattr(model.model.layers.get_submodule(above), last, packed)
            with torch.no_grad():
                dense.model.layers.get_submodule(name).weight.copy_(packed.matrix)
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    return model, dense


@pytest.mark.parametrize("adapted", [False, True])
def test_packed_weights_are_read_as_what_they_stand_for(adapted):
    model, dense = quantise(tiny_model("qwen2"))
    if adapted:  # the output of an adapter beside one of them
        for each in (model, dense):
            attention, torch_seed = each.model.layers[0].self_attn, 0
            torch.manual_seed(torch_seed)
            attention.q_proj = Beside(attention.q_proj)
    pairs = random_pairs()
    found, expected = (attribute(m, pairs, metric="logit_diff", ig_steps=2) for m in (model, dense))
    assert torch.allclose(found.per_pair, expected.per_pair, rtol=1e-9, atol=1e-12)
    empty = Circuit(found.graph, torch.zeros(found.graph.n_edges, dtype=torch.bool))
    kept = [evaluate_circuit(m, pairs, empty, "logit_diff").circuit for m in (model, dense)]
    assert torch.allclose(*kept)
    assert torch.equal(*(columns(m).values for m in (model, dense)))
    assert weight_hashes(model) != weight_hashes(dense) and not_finite(model) is None
    with pytest.raises(ValueError, match="is quantised .*int8.*, and packed weights can't be"):
        bake(model, ZERO)
    del model.config.quantization_config
    with pytest.raises(ValueError, match="Qwen2ForCausalLM is quantised .*does not say how"):
        attribute(model, pairs)


class Beside(nn.Module):
    """A low-rank adapter beside a linear module, as PEFT puts one on a quantised one."""

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.lora = nn.Sequential(
            nn.Linear(self.in_features, 2, bias=False), nn.Linear(2, self.out_features, bias=False)
        ).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora(x)


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bits"),
        ({"load_in_8bit": True}, "bitsandbytes, 8 bits"),
        ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "torchao", "quant_type": "int8_dynamic_activation_int4"}, "torchao"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnly"}}}, None),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, None),
        ({"load_in_4bit": True, "load_in_8bit": False}, None),
        ({}, None),
        (None, None),
    ],
)
def test_other_ways_to_quantise_are_refused_by_name(settings, name):
    """By a model's configuration, and by the settings that it is to be loaded with."""
    config = tiny_model("qwen2").config
    config.quantization_config = settings
    for given in (config, settings):
        if name is None:
            check_quantised(given, "it")
        else:
            with pytest.raises(
                ValueError, match=rf"it is quantised \({name}\), and heads can't be"
            ):
                check_quantised(given, "it")


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

"""Anatomies that are wrong in one place each, as names alone would have them, and right ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import peft
import pytest
import torch
from torch import nn

from analysis import attribute
from analysis.circuits.circuit import Circuit
from analysis.circuits.faithfulness import evaluate_circuit
from analysis.detection.audits import prove
from analysis.detection.detect import anatomy
from analysis.detection.reaches import codes
from analysis.models.anatomy import Anatomy, Tap, Unsupported
from tests.support.families.build import build
from tests.support.gated_norm import Gated
from tests.support.layouts import LAYOUTS, Layout, by_names
from tests.support.models import ARCHITECTURES, random_pairs, tiny_model

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
LLAMA = LAYOUTS["llama"]
GEMMA = replace(LAYOUTS["gemma2"], gain_offset=0.0)


@pytest.fixture
def named(monkeypatch):
    """The anatomy of any family by a row of names."""

    def find(model: nn.Module, layout: Layout = LLAMA) -> Anatomy:
        monkeypatch.setitem(LAYOUTS, model.config.model_type, layout)
        return by_names(model)

    return find


@pytest.mark.parametrize("kv", ["grouped", "ungrouped"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_known_families_are_proved(architecture, kv):
    for dtype in DTYPES:
        model = tiny_model(architecture).to(dtype)
        assert prove(model, by_names(model, kv)) == []


FORCED = {
    "afmoe": (
        replace(GEMMA, mlp_norm="pre_mlp_layernorm", post_mlp_norm="post_mlp_layernorm"),
        {},
        r"gradient audit: layer 0: something reads .* self_attn\.gate_proj \(0\.",
    ),
    "laguna": (LLAMA, {}, r"gradient audit: layer 0: something reads .*: self_attn\.g_proj"),
    "mimo_v2_flash": (LLAMA, {}, r"gradient audit: layer 1: something .*: self_attn\.k_proj"),
    "qwen3_next": (
        replace(LLAMA, gain_offset=1.0),
        {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2},
        r"gradient audit: layer 0: something reads .*: self_attn\.q_proj",
    ),
    "deepseek_v3": (
        replace(LLAMA, qkv=("q_a_proj", "kv_a_proj_with_mqa", "kv_a_proj_with_mqa")),
        {},
        r"gradient audit: layer 0: something reads .*: self_attn\.kv_a_proj_with_mqa",
    ),
    "gemma3_text": (
        LAYOUTS["gemma3_text"],
        {"use_bidirectional_attention": True},
        "causal audit: layer 0: a token sees those behind it",
    ),
}


@pytest.mark.parametrize("family", FORCED)
def test_what_names_alone_would_get_wrong_is_refused_in_every_dtype(named, family):
    layout, options, reason = FORCED[family]
    for dtype in DTYPES:
        model = build(family, **options).to(dtype)
        with pytest.raises(Unsupported, match=reason):
            prove(model, named(model, layout))


def test_norms_over_all_heads_are_told_and_scales_of_logits_are_no_fault():
    tied = build("olmoe")
    notes = prove(tied, anatomy(tied))
    assert [note.split(";")[0] for note in notes] == (
        ["layers 0 to 1: a norm over all heads ties them together"] * 2
    )
    assert "<q>" in notes[0] and "<k>" in notes[1]
    scaled = build("granite", residual_multiplier=1.0, logits_scaling=2.0)
    assert prove(scaled, anatomy(scaled)) == []


def swapped(block):
    """The queries of the first two heads, each under the other's name."""
    (reading,) = block.readings
    q, *others = reading.sides
    wrong = replace(q, index=q.index[[1, 0, 2, 3]])
    return replace(block, readings=(replace(reading, sides=(wrong, *others)),))


def renamed(block):
    (reading,) = block.readings
    q, k, v = reading.sides
    wrong = q, replace(k, letter="v"), replace(v, letter="k")
    return replace(block, readings=(replace(reading, sides=wrong),))


def without_values(block):
    (reading,) = block.readings
    return replace(block, readings=(replace(reading, sides=reading.sides[:2]),))


def half_the_heads(block):
    return replace(block, heads=(replace(block.heads[0], n_heads=2),))


def other_norm(block):
    """The MLP's, a LayerNorm in the place of an RMSNorm; its values are in no sum of parts."""
    (node,), mlp = block.nodes, block.module.mlp
    norm = replace(block.readings[0].norm, module=node.taps[0].module, centred=True)
    return replace(block, nodes=(replace(node, taps=(Tap(mlp, 1, norm),)),))


def scaled_norm(block):
    (node,), mlp = block.nodes, block.module.mlp
    norm = replace(block.readings[0].norm, module=node.taps[0].module)
    return replace(block, nodes=(replace(node, taps=(Tap(mlp, 1, norm, 1.05),)),))


WRONG = {
    swapped: r"heads audit: layer 1: the rows .* q of heads \[\d\] reach other heads too",
    renamed: "heads audit: layer 1: rows that are said to be v reach attention as k",
    without_values: r"gradient audit: layer 1: something reads .*: self_attn\.v_proj",
    half_the_heads: "heads audit: layer 1: it is said to have 2 heads, and .* called with 4",
    other_norm: "gradient audit: layer 1: the gradient .* is not that of a node's input",
    scaled_norm: "gradient audit: layer 1: the gradient .* is not that of a node's input",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_anatomy_that_is_wrong_in_one_layer_is_refused_and_the_layer_named(wrong):
    for dtype in DTYPES:
        model = tiny_model("llama").to(dtype)
        right = by_names(model)
        parts = replace(right, blocks=(right.blocks[0], wrong(right.blocks[1])))
        with pytest.raises(Unsupported, match=WRONG[wrong]):
            prove(model, parts)


def test_what_goes_around_the_stream_is_refused():
    """An embedding of a layer's own, of the tokens themselves."""
    model = tiny_model("llama")
    own, seen = nn.Embedding(50, 32, dtype=torch.float64), {}
    model.model.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model.model.layers[1].mlp.register_forward_hook(lambda m, i, y: y + own(seen["input_ids"]))
    with pytest.raises(Unsupported, match="outside audit: layer 1: other tokens"):
        prove(model, by_names(model))


def test_what_depends_on_the_padding_is_refused():
    """A number of the whole batch, which no other token of the row tells."""
    model = tiny_model("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda m, i, y: y * y.shape[1] ** 0.5)
    with pytest.raises(Unsupported, match="causal audit: layer 0: a prompt that is padded"):
        prove(model, by_names(model))


def test_layers_that_do_not_run_once_each_are_refused():
    model = tiny_model("llama")
    parts = by_names(model)
    model.model.layers = nn.ModuleList([*model.model.layers, model.model.layers[0]])
    model.config.num_hidden_layers = 3
    with pytest.raises(Unsupported, match="layer 1: it does not run once"):
        prove(model, replace(parts, layers=model.model.layers))


PROMPTS = {
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "p-tuning": lambda: peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=32
    ),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_a_learned_prompt_is_refused_even_where_it_is_not_known_to_be_one(kind):
    model = peft.get_peft_model(tiny_model("llama", torch.float32), PROMPTS[kind]()).eval()
    with pytest.raises(Unsupported, match="logits audit: "):
        prove(model, by_names(model))


def test_models_with_adapters_are_proved():
    for architecture in ("llama", "gpt2"):
        config = peft.LoraConfig(
            r=2, init_lora_weights=False, target_modules="all-linear", lora_bias=True
        )
        model = peft.get_peft_model(tiny_model(architecture), config)
        with torch.no_grad():
            assert prove(model, anatomy(model)) == []


def test_a_proof_holds_until_the_model_changes(monkeypatch):
    made = []
    monkeypatch.setattr(
        "analysis.detection.audits._audit", lambda model, parts, only: made.append(only) or ["it"]
    )
    model = tiny_model("llama")

    def proved(**how):
        before = len(made)
        assert prove(model, by_names(model, how.pop("kv", "grouped")), **how) == ["it"]
        return len(made) - before

    assert [proved(only_heads=True), proved(only_heads=True), proved()] == [1, 0, 1]
    assert [proved(), proved(only_heads=True), proved(kv="ungrouped")] == [0, 0, 1]
    assert (proved(), proved()) == (1, 0)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    assert (proved(), proved()) == (1, 0)
    handle = model.model.layers[0].register_forward_hook(lambda m, i, o: o)
    assert (proved(), proved()) == (1, 0)
    handle.remove()
    assert proved() == 1
    right = by_names(model)
    prove(model, replace(right, blocks=(right.blocks[0], swapped(right.blocks[1]))))
    assert len(made) == 8


def test_nothing_is_measured_without_a_proof_and_nothing_stays_behind():
    model = tiny_model("llama").train()
    parts = anatomy(model)
    model.model.layers[1].mlp.register_forward_hook(lambda m, i, y: y.flip(1))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    state = torch.get_rng_state()
    with pytest.raises(Unsupported, match="causal audit: layer 1"):
        attribute(model, random_pairs())
    circuit = Circuit(parts.graph, torch.ones(parts.graph.n_edges, dtype=torch.bool))
    with pytest.raises(Unsupported, match="causal audit: layer 1"):
        evaluate_circuit(model, random_pairs(), circuit)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("count", [2, 3, 9, 64, 128])
def test_no_code_holds_all_bits_of_another(count):
    bits = codes(count).int()
    common = bits @ bits.T
    held = common == bits.sum(1)[:, None]
    assert torch.equal(held, torch.eye(count, dtype=torch.bool))


@pytest.mark.parametrize("share", [1.0, 1e-3])
def test_a_map_that_comes_to_mix_tokens_is_proved_no_more(share):
    model = tiny_model("llama")
    layer = model.model.layers[1]
    layer.input_layernorm = norm = Gated(layer.input_layernorm, lambda x: x)
    parts = anatomy(model)
    whole = deepcopy(model)
    assert prove(whole, anatomy(whole)) == []
    norm.mixes = lambda x: x + share * x.roll(1, 1)
    with pytest.raises(Unsupported, match="layer 1: "):
        prove(model, parts)

"""What detection finds in a model, against tables of names and heads tried one by one."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AttentionInterface

from analysis.detection import rows
from analysis.detection.build import build
from analysis.detection.find import find
from analysis.detection.plan import Held, TapPlan
from analysis.models.anatomy import Norm, Unsupported
from analysis.models.maps import Map
from tests.support.families import build as families
from tests.support.gated_norm import Gated
from tests.support.layouts import by_names
from tests.support.models import ARCHITECTURES, tiny_model


def flat(part):
    """Everything that a part of an anatomy holds, with tensors as lists."""
    if isinstance(part, torch.Tensor):
        return part.tolist()
    if isinstance(part, tuple | list):
        return [flat(one) for one in part]
    if hasattr(part, "__dataclass_fields__"):
        return {name: flat(getattr(part, name)) for name in part.__dataclass_fields__}
    return part


@pytest.mark.parametrize("kv", ["grouped", "ungrouped"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_anatomy_of_known_families_is_that_of_their_names(architecture, kv):
    model = tiny_model(architecture)
    found, named = build(find(model), model, kv), by_names(model, kv)
    assert flat(found.blocks) == flat(named.blocks)
    assert (found.graph, found.width, found.gauge) == (named.graph, named.width, None)
    assert flat(found.final_norm) == flat(named.final_norm)
    assert (found.decoder, found.embedding, found.layers) == (
        (named.decoder, named.embedding, named.layers)
    )
    assert found.max_tokens == named.max_tokens


def names(kind, layer, **more):
    """The destinations of one layer of a family, without its number, and what each node reads."""
    model = families.build(kind, **more)
    graph = build(find(model), model).graph
    found = graph.destination_names[graph.columns(layer)]
    return [re.sub(r"^(\w)\d+", r"\1", name) for name in found]


F64 = torch.float64
Q = [f"a.h{h}<q>" for h in range(4)]
KV = ["a.kv0<k>", "a.kv1<k>", "a.kv0<v>", "a.kv1<v>"]
EACH = [f"a.kv{h}<{letter}>" for letter in "kv" for h in range(4)]
GATES = [f"a.h{h}<g>" for h in range(4)]


@pytest.mark.parametrize(
    ("kind", "layer", "wanted"),
    [
        ("phi3", 0, [*Q, *KV, "m"]),  # rows of one projection, side after side
        ("gpt_neox", 0, [*Q, *EACH, "m"]),  # and head by head
        ("bloom", 0, [*Q, *EACH, "m"]),  # the same where only z is seen
        ("gptj", 0, [*Q, *EACH, "m"]),
        ("lfm2", 0, ["x", "m"]),
        ("qwen3_5_text", 1, [*Q, *KV, *GATES, "m"]),  # gates between the rows of queries
        ("deepseek_v3", 0, ["a.*<q>", "a.*<k>", "a.*<kv>", "m"]),
        ("axk2", 0, ["a.*<k>", "a.*<kv>", "a.*<qg>", "m"]),  # behind a norm with a gate
        ("jamba", 0, ["x", "m"]),
        ("bamba", 1, [*Q, *KV, "m"]),
        ("nemotron_h", 1, ["m"]),
    ],
)
def test_destinations_are_rows_by_what_reads_them(kind, layer, wanted):
    assert names(kind, layer) == wanted


def test_a_second_attention_numbers_its_heads_on():
    found = find(families.build("longcat_flash")).layers[0]
    assert [side.feeds for r in found.readings for side in r.sides if side.letter == "q"] == [
        ((0, 1, 2, 3),),
        ((4, 5, 6, 7),),
    ]
    assert [(part.attention, part.point) for part in found.heads] == [
        ("self_attn.0", 1),
        ("self_attn.1", 3),
    ]


def test_parallel_branches_read_the_same_norm():
    cohere, neox = (find(families.build(k)).layers[0] for k in ("cohere2", "gpt_neox"))
    (tap,) = cohere.nodes[0].taps
    assert (tap.module, tap.norm.module) == ("mlp", "input_layernorm")
    assert neox.nodes[0].taps[0] == TapPlan("post_attention_layernorm", 0, None, 1.0)
    assert len(cohere.updates) == len(neox.updates) == 1


def test_a_module_that_adds_the_stream_itself_writes_what_it_adds():
    assert find(families.build("bloom")).layers[0].nodes[0].writes == ("mlp.dense_4h_to_h",)
    assert find(families.build("mpt")).layers[0].nodes[0].writes == ("ffn.down_proj",)


def test_scales_are_those_of_the_configuration_or_of_the_layer():
    granite = families.build("granite")
    first = find(granite).layers[0]
    multiplier = granite.config.residual_multiplier
    assert [list(u.shares.values()) for u in first.updates] == [[multiplier], [multiplier]]
    assert first.fixed
    assert find(families.build("minicpm3")).fixed


def test_what_a_layer_holds_is_read_when_the_anatomy_is_built():
    model = families.build("doge", dtype=torch.float32)
    plan, layer = find(model), model.model.layers[0]
    assert plan.fixed
    assert plan.layers[0].updates[0].kept == Held("input_residual", 0.0)
    for _ in range(2):
        (tap,) = build(plan, model).blocks[0].nodes[0].taps
        assert torch.equal(tap.gauge, layer.input_residual)
        with torch.no_grad():
            layer.input_residual += 0.1


@pytest.mark.parametrize("kind", ["deepseek_v3", "laguna", "bloom", "gemma4_unified_text"])
def test_coded_cotangents_find_what_heads_one_by_one_do(kind, monkeypatch):
    model = families.build(kind)
    coded = find(model)
    monkeypatch.setattr(rows.Probe, "reached", lambda probe: probe._one_by_one())
    assert flat(find(model)) == flat(coded)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral", "qwen3_5_text"])
def test_projections_that_begin_at_zero_are_found(kind):
    model = families.build(kind)
    found = find(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and re.search(r"\.(o_proj|out_proj|down_proj)", name):
                parameter.zero_()
    assert flat(find(model)) == flat(found)


@pytest.mark.parametrize(
    "kind",
    [
        "llama",
        "nanochat",
        "qwen3_5_text",
        "deepseek_v3",
        "minicpm3",
        "doge",
        "gptj",
        "longcat_flash",
    ],
)
def test_low_precision_finds_the_same(kind):
    found, low = (
        find(families.build(k, dtype=t)) for k, t in ((kind, F64), (kind, torch.bfloat16))
    )
    assert flat(low) == flat(found)


def test_a_model_is_left_as_it_was():
    model = tiny_model("qwen3").train()
    model.model.norm.weight.requires_grad_(False)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    interface, random = AttentionInterface.get_interface, torch.get_rng_state()
    find(model)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert AttentionInterface.get_interface is interface
    assert torch.equal(torch.get_rng_state(), random)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["model.norm.weight"]
    for module in model.modules():
        assert module.training
        assert not (module._forward_hooks or module._forward_pre_hooks)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("deepseek_v4", r"model.layers.0 has the shape \[2, 8, 4, 32\]: several residual streams"),
        ("hrm_text", r"the layers model.\w+.layers of HrmTextForCausalLM run more than once"),
        ("openai-gpt", "layer 0: what it returns is not the residual stream plus the outputs"),
        ("jetmoe", "layer 0: no output projection was found in JetMoeAttention"),
        (
            "gemma4_text",
            "layer 0: beside the residual stream it is given argument 1, which depends",
        ),
        ("zamba2", "layer 1: beside the residual stream it is given argument 1, which depends on"),
        ("cpmant", r"shape \[2, 10, 32\] for ids of \[2, 8\]: the model puts tokens of its own"),
        ("reformer", "has no list of layers that hand one residual stream on"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(kind, reason):
    with pytest.raises(Unsupported, match=reason) as error:
        find(families.build(kind))
    assert "\n" not in str(error.value)


MIXES = {
    "its own": lambda x: x,
    "the one before": lambda x: x.roll(1, 1),
    "all before": lambda x: x.cumsum(1),
    "all of the batch": lambda x: x + x.mean((0, 1)),
}


@pytest.mark.parametrize("mixes", MIXES)
def test_a_gated_norm_is_a_map_where_a_token_makes_its_own_gate(mixes):
    model = tiny_model("llama")
    layer = model.model.layers[1]
    layer.input_layernorm = Gated(layer.input_layernorm, MIXES[mixes])
    if mixes == "its own":
        first, second = (block.readings[0].norm for block in build(find(model), model).blocks)
        assert (type(first), second) == (Norm, Map(layer.input_layernorm))
        return
    with pytest.raises(Unsupported, match=r"^layer 1: .* norm of it \(Gated gives it\)"):
        find(model)


def test_a_channel_that_a_norm_of_the_queries_silences_is_still_read():
    """By the norm's scale; trained weights have such channels."""
    model = families.build("qwen3")
    found = find(model)
    with torch.no_grad():
        for layer in model.model.layers:
            for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
                norm.weight[:2] = 0
    assert flat(find(model)) == flat(found)

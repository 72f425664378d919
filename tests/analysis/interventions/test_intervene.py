"""Changing heads: live against baked, and both against a model whose circuit is known."""

from __future__ import annotations

import copy
import json
from collections import Counter

import pytest
import torch

from analysis.detection.detect import anatomy
from analysis.interventions.baking import bake, save_baked
from analysis.interventions.head_sets import parse_heads, parse_intervention
from analysis.interventions.operations import Intervention, constants, intervened
from analysis.interventions.random_sets import matched_random_sets
from analysis.models.graph import Graph
from analysis.models.hooks import Hooks
from tests.support.known_circuit import HEADS, PROBLEMS, build_copier
from tests.support.models import tiny_model
from train.recipes.tiny import build_tokenizer

REFERENCE = [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16]]
CHANGES = ("zero:L0H1,L1H3", "scale:1.3:L0H1,L1H3,L1H0", "mean:L0H1,L1H2")


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def ids_for(model, rows=2, length=9):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(3, 50, (rows, length), generator=generator)


def change_of(model, text):
    change = parse_intervention(text, anatomy(model).graph)
    return change, constants(model, change, REFERENCE)


@pytest.mark.parametrize("text", CHANGES)
def test_live_equals_baked(architecture, text):
    """In float64, on every architecture: the same logits, from weights and from hooks."""
    model, ids = tiny_model(architecture), None
    ids = ids_for(model)
    change, added = change_of(model, text)
    before = logits(model, ids)
    with intervened(model, change, added):
        live = logits(model, ids)
    assert torch.equal(logits(model, ids), before)  # nothing is left
    assert float((live - before).abs().max()) > 0.1
    if architecture == "mistral" and text.startswith("mean"):
        with pytest.raises(ValueError, match="a mean can't be baked into mistral with a sliding"):
            bake(copy.deepcopy(model), change, added)
        return
    baked = bake(copy.deepcopy(model), change, added)
    # Gemma computes part of its norms in float32 whatever the weights are
    tolerance = 1e-5 if architecture.startswith("gemma") else 1e-10
    torch.testing.assert_close(logits(baked, ids), live, atol=tolerance, rtol=0)


def by_hand(model, ids, layer, head, new):
    """Logits when the head's output W_O[h] z is subtracted and W_O[h] new(z) is added instead."""
    block = anatomy(model).blocks[layer].heads[0]
    seen = {}
    with Hooks() as hooks:
        hooks.input(block.o_proj, lambda z: seen.update(z=z.clone()))

        def replace(out):
            z = seen["z"].unflatten(-1, (block.n_heads, -1))[..., head, :]
            return out + torch.einsum("bte,ed->btd", new(z) - z, block.W_O[head])

        hooks.output(block.o_proj, replace)
        return logits(model, ids)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_each_operation_is_what_it_says(name):
    model = tiny_model(name)
    ids = ids_for(model)
    z = []
    with Hooks() as hooks:
        hooks.input(anatomy(model).blocks[1].heads[0].o_proj, lambda x: z.append(x[0]))
        for row in REFERENCE:
            logits(model, torch.tensor([row]))
    of_head = [x.unflatten(-1, (4, -1))[:, 2] for x in z]
    mean = torch.cat(of_head).mean(0)
    at_0 = torch.stack([x[0] for x in of_head]).mean(0)
    at_4 = of_head[2][4]
    wanted = {
        "zero:L1H2": lambda z: torch.zeros_like(z),
        "scale:0.5:L1H2": lambda z: 0.5 * z,
        "scale:-1:L1H2": lambda z: -z,
        "mean:L1H2": lambda z: mean.expand_as(z),
    }
    for text, new in wanted.items():
        with intervened(model, *change_of(model, text)):
            found = logits(model, ids)
        torch.testing.assert_close(found, by_hand(model, ids, 1, 2, new), atol=1e-6, rtol=0)
    added = change_of(model, "mean_by_position:L1H2")[1]
    rows = added.rows(1, torch.tensor([0, 4, 5, 80]))[:, 0]
    for row, expected in zip(rows, (at_0, at_4, mean, mean), strict=True):
        torch.testing.assert_close(row, expected.to(row), atol=1e-6, rtol=0)


def test_resampled_values_are_those_of_reference_tokens():
    model = tiny_model("llama")
    _, added = change_of(model, "resample:L0H1,L1H2")
    z = {0: [], 1: []}
    with Hooks() as hooks:
        for layer, head in ((0, 1), (1, 2)):
            keep = z[layer].append
            at = anatomy(model).blocks[layer].heads[0].o_proj
            hooks.input(at, lambda x, h=head, keep=keep: keep(x[0].unflatten(-1, (4, -1))[:, h]))
        for row in REFERENCE:
            logits(model, torch.tensor([row]))
    bank = {layer: torch.cat(rows).to(added.by_layer[0]) for layer, rows in z.items()}
    positions = torch.arange(200)
    chosen = []
    for layer in (0, 1):
        distance = torch.cdist(added.rows(layer, positions)[:, 0], bank[layer])
        assert float(distance.min(1).values.max()) < 1e-6
        chosen.append(distance.argmin(1))
    assert torch.equal(*chosen)  # one token for all heads of the set
    assert len(set(chosen[0].tolist())) == len(bank[0])  # every token is drawn


def test_a_slice_of_the_output_is_something_else():
    """The mistake of four public repositories: zeroing o_proj's output where the head 'is'."""
    model = tiny_model("llama")
    ids = ids_for(model)
    with intervened(model, Intervention("zero", ((1, 2),))):
        right = logits(model, ids)

    def slice_of_output(out):
        out = out.clone()
        out[..., 2 * 8 : 3 * 8] = 0
        return out

    with Hooks() as hooks:
        hooks.output(anatomy(model).blocks[1].heads[0].o_proj, slice_of_output)
        wrong = logits(model, ids)
    assert float((right - wrong).abs().max()) > 0.1


@pytest.mark.parametrize("text", ["zero:L0H1,L1H3", "mean:L0H1,L1H2", "scale:1.3:L1H0"])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gpt2"])
def test_generation_with_a_cache(name, text):
    """Greedy decoding, left-padded, is that of the baked weights and of runs without a cache."""
    model = tiny_model(name)
    ids = ids_for(model)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    how = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    change, added = change_of(model, text)
    with intervened(model, change, added):
        live = model.generate(ids, **how)
        uncached = model.generate(ids, use_cache=False, **how)
    assert torch.equal(live, uncached)
    assert torch.equal(bake(copy.deepcopy(model), change, added).generate(ids, **how), live)
    assert not torch.equal(model.generate(ids, **how), live)


@pytest.mark.parametrize("operation", ["mean_by_position", "resample"])
def test_positions_are_counted_with_a_cache_and_padding(operation):
    model = tiny_model("llama")
    ids = ids_for(model)
    change, added = change_of(model, f"{operation}:L0H1,L1H2")
    how = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(12) >= 3).long().expand(2, 12)
    with intervened(model, change, added):
        plain = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        uncached = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **how)
        left = model.generate(padded, attention_mask=mask, **how)
    assert torch.equal(plain, uncached)
    assert torch.equal(left[:, 3:], plain)
    with pytest.raises(ValueError, match="depends on the position, and weights do not"):
        bake(model, change, added)


@pytest.mark.parametrize("text", CHANGES)
def test_under_lora(text):
    """An adapter on o_proj too: live on the adapted model, baked after merging."""
    from peft import LoraConfig, get_peft_model

    model = tiny_model("qwen2")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(model, config).double().eval()
    ids = ids_for(model)
    change, added = change_of(adapted, text)
    how = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with intervened(adapted, change, added):
        live = logits(adapted, ids)
        answer = adapted.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
    baked = bake(adapted, change, added)
    torch.testing.assert_close(logits(baked, ids), live, atol=1e-10, rtol=0)
    assert torch.equal(baked.generate(ids, attention_mask=torch.ones_like(ids), **how), answer)


def test_the_command_writes_a_checkpoint(tmp_path, capsys):
    """From a model's directory to another one, which answers as the live model does."""
    from analysis.cli import parse
    from analysis.commands.intervene import Options, act
    from analysis.models.loading import load_model
    from tests.support.known_circuit import save_copier

    save_copier(tmp_path / "copier")
    words = [f"model={tmp_path}/copier", f"out={tmp_path}/baked", "intervention=zero:L0H1"]
    act(parse(Options, words))
    assert "1 heads changed (zero:L0H1); wrote" in capsys.readouterr().out
    model, ids = load_model(str(tmp_path / "copier"), None), ids_for(None)
    with intervened(model, Intervention("zero", ((0, 1),))):
        live = logits(model, ids)
    baked = load_model(str(tmp_path / "baked"), None)
    torch.testing.assert_close(logits(baked, ids), live, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="exists; give another out"):
        act(parse(Options, words))
    with pytest.raises(ValueError, match="takes its values from a reference set"):
        act(parse(Options, [words[0], f"out={tmp_path}/x", "intervention=mean:L0H1"]))
    with pytest.raises(ValueError, match="there is no pairs file none.jsonl"):
        act(parse(Options, [*words[:1], f"out={tmp_path}/x", words[2], "reference=none.jsonl"]))


@pytest.mark.parametrize("text", ["scale:0.5:L0H1", "mean:L0H1,L1H2"])
def test_a_baked_checkpoint_is_an_ordinary_one(tmp_path, text):
    """Written, read back by the Auto classes, the tokenizer too; also a Qwen2 made a Llama."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen2ForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    ids = ids_for(model)
    change, added = change_of(model, text)
    with intervened(model, change, added):
        live = logits(model, ids)
    save_baked(tmp_path / "baked", model, tokenizer, change, added)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "baked").eval()
    torch.testing.assert_close(logits(read, ids), live, atol=1e-4, rtol=0)
    assert read.config.model_type == ("llama" if text.startswith("mean") else "qwen2")
    same = AutoTokenizer.from_pretrained(tmp_path / "baked")
    text_with_digits = "12 + 345 =  6?\n\n<think>"
    assert same(text_with_digits).input_ids == tokenizer(text_with_digits).input_ids
    assert same.chat_template == tokenizer.chat_template
    kept = json.loads((tmp_path / "baked" / "intervention.json").read_text())
    assert kept == {"intervention": str(change)}


def test_the_known_circuit_must_be_used():
    """Without its two heads the model can't repeat a digit; without any two others it can."""
    model, tokenizer = build_copier(), build_tokenizer()
    graph = anatomy(model).graph

    def solved(change):
        from analysis.evaluation.asking import evaluate
        from analysis.evaluation.sampling import Sampling
        from analysis.prompts.chat import Prompting

        sampling = Sampling(1, 0, 1.0, 4, 40)
        with intervened(model, change):
            return evaluate(model, tokenizer, PROBLEMS, Prompting(), sampling).pass_at_1

    assert solved(None) == 1.0
    heads = parse_heads(",".join(HEADS), graph)
    assert solved(Intervention("zero", tuple(heads))) == 0.0
    for others in matched_random_sets(heads, graph, 6, seed=0):
        assert solved(Intervention("zero", tuple(others))) == 1.0


def test_random_sets_match_in_number_and_layers(caplog):
    graph = Graph(6, 8, 4)
    heads = [(0, 1), (2, 0), (2, 3), (2, 7), (5, 5)]
    sets = matched_random_sets(heads, graph, 50, seed=1)
    assert sets == matched_random_sets(heads, graph, 50, seed=1)
    assert sets != matched_random_sets(heads, graph, 50, seed=2)
    assert len(set(map(tuple, sets))) == 50
    for found in sets:
        assert len(set(found)) == 5
        assert not set(found) & set(heads)
        assert Counter(layer for layer, _ in found) == {0: 1, 2: 3, 5: 1}
    assert len({head for found in sets for head in found if head[0] == 2}) == 5  # all others
    full = [(2, head) for head in range(8)]  # a whole layer: the rest comes from its neighbours
    for found in matched_random_sets(full, graph, 20, seed=0):
        assert len(set(found)) == 8
        assert {layer for layer, _ in found} <= {1, 3}
    half = [(0, 0), (0, 1)]  # of 4 heads in one layer: there is one other set
    assert matched_random_sets(half, Graph(1, 4, 2), 5, seed=0) == [[(0, 2), (0, 3)]]
    assert "only 1 different random sets match the heads (5 asked for)" in caplog.text
    with pytest.raises(ValueError, match="the set holds 25 of 48 heads"):
        matched_random_sets([(i, j) for i in range(4) for j in range(8)][:25], graph, 1, seed=0)


MISTAKES = [
    ("zero", "write none, zero:HEADS"),
    ("zap:L0H1", "write none, zero:HEADS"),
    ("scale:L0H1", "'L0H1' in 'scale:L0H1' is no factor"),
    ("scale:inf:L0H1", "must be finite"),
    ("zero:L9H1", "no head L9H1: the model has layers 0-1"),
    ("zero:L0H1:0", "asks for 0 heads"),
    ("zero:runs/none@3", "names no heads: write L3H2,L5H1, a circuit's file, or RUN@STEP:SET"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_intervention(text, Graph(2, 4, 2))


def test_a_reference_set_is_needed():
    model = tiny_model("llama")
    change = parse_intervention("mean:L0H1", anatomy(model).graph)
    with pytest.raises(ValueError, match="takes its values from a reference set"):
        constants(model, change, [])
    with pytest.raises(ValueError, match="needs the constants"), intervened(model, change):
        pass


@pytest.mark.distributed
@pytest.mark.parametrize("how", ["whole", "in place", "a part"])
def test_a_compiled_model_is_changed_too(how):
    """Also where it was compiled, and run, before anybody changed a head."""
    model = tiny_model("qwen2", torch.float32)
    plain, ids = copy.deepcopy(model), ids_for(model)
    change, added = change_of(plain, "zero:L0H1,L1H3")
    with intervened(plain, change, added):
        expected = logits(plain, ids)
    compiled = torch.compile(model, backend="eager") if how == "whole" else model
    if how != "whole":
        (model if how == "in place" else model.model.layers[1].self_attn).compile(backend="eager")
    before = logits(compiled, ids)
    with intervened(model, change, added):
        assert torch.equal(logits(compiled, ids), expected)
    assert torch.equal(logits(compiled, ids), before)
    assert (before - expected).abs().max() > 0.1

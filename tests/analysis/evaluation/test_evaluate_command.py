"""Evaluations as a user runs them: the known circuit, its controls, mistakes."""

from __future__ import annotations

import re
import subprocess

import pytest

from analysis.cli import parse
from analysis.commands.evaluate import prepare
from analysis.evaluation.setup import Options
from analysis.tracking.further import pairs_of_file
from tests.support.evaluations import run
from tests.support.known_circuit import HEADS
from tests.support.places import ROOT
from tests.support.warm import warm_python
from train.recipes.tiny import build_tokenizer


def test_the_known_circuit_end_to_end(copier, tmp_path, capsys):
    """Its heads destroy the task, random heads do not, and the intervals say so."""
    heads = ",".join(HEADS)
    result = run(copier, tmp_path / "e", f"intervention=zero:{heads}", f"base={copier}", "k=[1,2]")
    scores, found = result["conditions"], result["comparisons"]
    assert scores["none"]["pass_at_1"] > 0.95
    assert scores["intervention"]["pass_at_1"] < 0.1
    sets = [name for name in scores if name.startswith("random-")]
    assert len(sets) == 9  # of ten asked for: there are no more
    assert min(scores[name]["pass_at_1"] for name in sets) > 0.95
    assert found["effect"]["high"] < -0.8
    assert found["effect"]["p_value"] < 1e-6
    assert abs(found["control"]["value"]) < 0.05
    assert found["effect_minus_control"]["high"] < -0.7
    assert found["effect_minus_control"]["p_value"] == pytest.approx(1 / 10)
    # the base is the same model here, so nothing of the effect is left
    assert found["effect_minus_base"]["low"] <= 0 <= found["effect_minus_base"]["high"]
    assert scores["none"]["pass_at_k"]["2"]["value"] >= scores["none"]["pass_at_1"]
    assert result["heads"] == HEADS
    assert all(len(result["changed"][name]) == 2 for name in sets)
    shown = capsys.readouterr().out
    assert "effect - that of random heads" in shown


def test_a_result_without_random_heads_says_so(copier, tmp_path, capsys):
    run(copier, tmp_path / "e", "intervention=zero:L0H3", "controls=0", "size=4", "n=1")
    shown = capsys.readouterr().out
    assert "4 problems, 1 sample of each" in shown and "(1 head: L0H3)" in shown
    assert "No random heads were changed: controls=10" in shown and "gainst random" not in shown


def test_random_heads_of_the_circuits_layers_have_no_effect(copier, tmp_path, capsys):
    """The same command on two heads that do nothing: no effect beyond chance."""
    found = run(copier, tmp_path / "e", "intervention=zero:L0H3,L2H0", "controls=4")["comparisons"]
    assert found["effect"]["low"] <= 0 <= found["effect"]["high"]
    assert found["effect"]["p_value"] > 0.05
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "/" not in line) <= 80


def test_attribution_finds_the_known_circuit(copier, tmp_path):
    """pairs -> EAP-IG -> circuit file -> zeroed heads, by commands only."""
    from analysis.commands.pairs import Options as PairOptions
    from analysis.commands.pairs import act as make_pairs

    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "circuit"
    task = f"source=jsonl:{copier}/task.jsonl"
    make_pairs(parse(PairOptions, [f"model={copier}", f"out={pairs}", task, "size=6"]))
    further = pairs_of_file(pairs, times=4).further
    assert further is not None and len(further) >= 6
    done = subprocess.run(
        [
            warm_python(),
            "-m",
            "analysis",
            "attribute",
            f"model.path={copier}",
            f"pairs.path={pairs}",
            f"out={out}",
            "circuit.top_n=6",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = run(copier, tmp_path / "e", f"intervention=zero:{out}/graph.json:2", "controls=2")
    assert sorted(result["heads"]) == HEADS
    assert result["comparisons"]["effect"]["high"] < -0.8


def test_a_mean_and_a_resampled_value(copier, tmp_path):
    """Known heads at their mean or at another token's value: the digit is lost either way."""
    for operation in ("mean", "mean_by_position", "resample"):
        change = f"intervention={operation}:{','.join(HEADS)}"
        result = run(copier, tmp_path / operation, change, "controls=2")
        assert result["comparisons"]["effect_minus_control"]["high"] < -0.5, operation


def test_answers_beyond_the_context(copier, tmp_path, caplog):
    """Learned positions end; others go on, which is said."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = build_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=64,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    more = ["size=2", "n=1", "max_new_tokens=100"]
    with pytest.raises(ValueError, match="positions for 64 tokens; give max_new_tokens="):
        run(tmp_path / "gpt2", tmp_path / "e", f"task=jsonl:{copier}/task.jsonl", *more)
    run(copier, tmp_path / "f", "size=2", "n=1", "max_new_tokens=300")
    assert "go beyond the 256 tokens that the model was trained on" in caplog.text


MISTAKES = [
    (["task=aime"], "unknown task 'aime'; choose one of aime24, aime25"),
    (["task=jsonl:none.jsonl"], "there is no file 'none.jsonl'"),
    (["model=/no/such/place"], "there is no directory /no/such/place"),
    (["k=[5]"], "k=5 needs as many samples of each problem at least; n is 4"),
    (["think=maybe"], "think is 'maybe'; choose on or off, or leave it out"),
    (["backend=sglang"], "backend is 'sglang'; choose one of: hf, vllm"),
    (["backend=vllm"], "backend=vllm needs the package vllm"),
    (["dtype=int8"], "dtype is 'int8'"),
    (["temperature=-1"], "temperature must be at least 0, not -1"),
    (["top_p=0"], "top_p must lie in (0, 1]"),
    (["size=0"], "size must be at least 1"),
    (["size=41"], "has 40 problems, fewer than size=41"),
    (["controls=-1"], "controls must be at least 0, not -1"),
    (["reference=none.jsonl"], "there is no pairs file none.jsonl"),
    (["k=four"], "k is 'four'; write a number or a list"),
    (["base=x"], "base=x is for an intervention, and there is none"),
    (["intervention=zap:L0H1"], "write none, zero:HEADS"),
    (["backend=vllm", "dtype=float64"], "vLLM has no dtype=float64"),
    (["options=3"], "write 'options={terms: 3}'"),
    (["task=arithmetic", "options={term: 3}"], "arithmetic has no option"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_mistakes_are_named_before_any_weight_is_loaded(copier, given, message):
    defaults = [f"model={copier}", f"task=jsonl:{copier}/task.jsonl"]
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(parse(Options, [*defaults, *given]))


def test_a_directory_without_a_model_is_named(tmp_path, copier):
    with pytest.raises(ValueError, match="holds no model .* for a run, write .*@STEP"):
        prepare(parse(Options, [f"model={tmp_path}", f"task=jsonl:{copier}/task.jsonl"]))


def test_a_checkpoint_is_a_step_of_whatever_has_a_base(tmp_path):
    """Of a run, also of one without run.json, as RUN@STEP says; elsewhere it is a model."""
    from analysis.records.checkpoints import find_model

    checkpoint = tmp_path / "old" / "checkpoint-40"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_config.json").write_text("{}")
    alone = find_model(str(checkpoint))
    assert (alone.path, alone.run, alone.base) == (str(checkpoint), None, None)
    with pytest.raises(ValueError, match=r"holds no model .*; for a run, write .*@STEP"):
        find_model(str(tmp_path / "old"))
    (tmp_path / "old" / "base.json").write_text('{"path": "BASE", "dtype": "bfloat16"}')
    found = find_model(str(checkpoint))
    assert found == find_model(f"{tmp_path}/old@40")
    assert (found.base, found.dtype, found.step) == ("BASE", "bfloat16", 40)


def test_a_directory_of_adapters_names_them(tmp_path):
    from analysis.records.checkpoints import find_model

    for name in ("second", "first"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds adapters in directories; name one: .*/first"):
        find_model(str(tmp_path))

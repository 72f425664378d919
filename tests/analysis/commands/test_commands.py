"""The commands as users run them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis import Pairs, attribute, commands, read_graph
from analysis.cli import parse
from analysis.commands.bench import Options as BenchOptions
from analysis.commands.bench import random_pairs as bench_pairs
from analysis.commands.measuring import Options
from tests.support.models import random_pairs, tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_model("qwen2", torch.float32).save_pretrained(directory)
    return directory


@pytest.fixture
def run(capsys):
    """Run a command in this process: exit status, standard output, standard error."""

    def command(name: str, *arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            commands.run(name, list(arguments))
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def pairs_file(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    random_pairs(3).save(path)
    return path


def arguments(model_dir: Path, pairs_file: Path, out: Path) -> list[str]:
    return [f"model.path={model_dir}", f"pairs.path={pairs_file}", f"out={out}"]


def test_attribute_says_beforehand_what_it_takes(run, model_dir, pairs_file, tmp_path):
    *of_what, _ = arguments(model_dir, pairs_file, tmp_path)
    there = sorted(tmp_path.rglob("*"))
    status, printed, _ = run("attribute", *of_what, "plan=true", "attribution.ig_steps=2")
    assert status == 0 and "Tried on 3 of 3 pairs, with 2 points of the path a pair." in printed
    assert sorted(tmp_path.rglob("*")) == there
    assert run("attribute", *of_what) == (2, "", "error: missing: out=...\n")


def test_attribute_writes_what_the_function_returns(run, model_dir, pairs_file, tmp_path):
    out = tmp_path / "out"
    options = ["attribution.kv=ungrouped", "attribution.quadrature=midpoint", "circuit.top_n=30"]
    status, printed, _ = run("attribute", *arguments(model_dir, pairs_file, out), *options)
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("edges.safetensors", "graph.json", "names.json"),
    ]
    pairs = Pairs.load(pairs_file)
    model = tiny_model("qwen2", torch.float32)
    expected = attribute(model, pairs, kv="ungrouped", quadrature="midpoint")
    tensors = load_file(out / "edges.safetensors")
    assert torch.equal(tensors["per_pair"], expected.per_pair)
    assert torch.equal(tensors["mean"], expected.mean)
    names = json.loads((out / "names.json").read_text())
    assert names["sources"] == expected.source_names
    assert names["destinations"] == expected.destination_names
    assert names["completeness_gap"] == pytest.approx(expected.completeness_gap)
    circuit, _ = read_graph(out / "graph.json")
    assert f"circuit of {circuit.n_edges} edges and {len(circuit.heads)} heads" in printed


def test_faithfulness_prints_and_writes_the_curve(run, model_dir, pairs_file, tmp_path):
    out = tmp_path / "out"
    status, printed, _ = run(
        "faithfulness", *arguments(model_dir, pairs_file, out), "attribution.metric=logit_diff"
    )
    assert status == 0
    content = json.loads((out / "faithfulness.json").read_text())
    assert content["fractions"][0] == 0.001 and len(content["attribution"]["points"]) == 10
    for name in ("cpr", "cmd"):
        value, low, high = content["attribution"][name]
        assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in printed
    held_out = content["held_out"]
    assert f"{held_out['cpr'][0]:.3f}" in printed and "held out" in printed
    assert held_out["points"][5] != content["attribution"]["points"][5]
    for name in ("held_out", "random"):
        assert content[name]["points"][-1][0] == pytest.approx(1, abs=1e-4)
    assert (out / "edges.safetensors").exists()


def test_adapter_directory_and_dtype(run, model_dir, pairs_file, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(base, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    options = [*arguments(tmp_path / "adapter", pairs_file, tmp_path / "out")]
    status, _, _ = run("attribute", *options, "attribution.dtype=float64")
    assert status == 0
    tensors = load_file(tmp_path / "out" / "edges.safetensors")
    assert tensors["mean"].dtype == torch.float64
    expected = attribute(adapted.double().merge_and_unload(), Pairs.load(pairs_file)).mean
    assert (tensors["mean"] - expected).abs().max() < 1e-5 * expected.abs().max()


IDS = '{"clean_ids": [5, 6], "corrupted_ids": [7, 8]}'
LINES = [
    ("", "holds no rows"),
    ("not json", "line 1:"),
    ("[1]", "line 1 (row 1): not a JSON object"),
    (f'{IDS}\n{{"clean_ids": [5, 6, 7], "corrupted_ids": [8]}}', "line 2: clean has 3 tokens and "),
    ('{"clean_ids": [5, "6"], "corrupted_ids": [7, 8]}', "line 1: clean_ids must hold integers"),
    ('{"clean_ids": [], "corrupted_ids": []}', "line 1: the pair is empty"),
    ('{"clean_ids": [5], "corrupted_ids": [7], "traget_id": 3}', "unknown fields ['traget_id']"),
    ('{"clean_ids": [5], "corrupted_ids": [7], "target_id": "x"}', "target_id must hold integers"),
    ('{"clean_ids": [5], "corrupted_ids": [7], "positions": [1]}', "position 1 lies outside 1"),
    ('{"clean_ids": [5], "corrupted_ids": [7], "positions": []}', "positions is empty"),
    ('{"clean_ids": [5], "corrupted_ids": [7], "positions": [0, -1]}', "name a token twice"),
    ('{"clean_ids": [50], "corrupted_ids": [7]}', "pair 0 has token id 50"),
]


@pytest.mark.parametrize(("text", "message"), LINES)
def test_a_malformed_pairs_file_is_named(run, model_dir, tmp_path, text, message):
    path, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    path.write_text(text)
    status, _, error = run("attribute", *arguments(model_dir, path, out))
    assert status == 1
    assert message in error and "Traceback" not in error
    assert not out.exists()


SETTINGS = [
    (["attribution.method=eap"], 1, "unknown method 'eap'; known: EAP, EAP-IG-inputs"),
    (["attribution.metric=loss"], 1, "unknown metric 'loss'; known: kl, logit_diff, nll"),
    (["attribution.quadrature=simpson"], 1, "unknown quadrature 'simpson'"),
    (["attribution.kv=both"], 1, "unknown kv 'both'"),
    (["attribution.dtype=int8"], 1, "unknown attribution.dtype 'int8'"),
    (["attribution.ig_steps=0"], 2, "attribution.ig_steps must be at least 1, not 0"),
    (["attribution.batch_size=0"], 2, "attribution.batch_size must be at least 1, not 0"),
    (["attribution.metod=EAP"], 2, "did you mean attribution.method?"),
    (["attribution.ig_steps=many"], 1, "ig_steps is 'many'; give a whole number"),
    (["verbose"], 2, "'verbose' is not key=value"),
    (["circuit.fraction=most"], 2, "circuit.fraction must lie in (0, 1] or be auto, not most"),
    (["circuit.top_n=3", "circuit.fraction=0.1"], 1, "exactly one of top_n"),
    (["circuit.top_n=100000"], 1, "top_n must lie in 1 .."),
    (["model.path=/nowhere"], 1, "there is no directory /nowhere"),
    (["pairs.path=/nowhere"], 1, "there is no pairs file /nowhere"),
]


@pytest.mark.parametrize(("extra", "expected", "message"), SETTINGS)
def test_a_wrong_setting_is_named(run, model_dir, pairs_file, tmp_path, extra, expected, message):
    out = tmp_path / "out"
    status, _, error = run("attribute", *arguments(model_dir, pairs_file, out), *extra)
    assert (status, "Traceback" in error) == (expected, False)
    assert message in error
    assert not out.exists()


def test_what_is_missing_is_named(run, model_dir, pairs_file, tmp_path):
    status, _, error = run("attribute", f"model.path={model_dir}")
    assert status == 2 and "missing: out=..., pairs.path=..." in error
    without = tmp_path / "without.jsonl"
    without.write_text(IDS)
    options = arguments(model_dir, without, tmp_path / "out")
    for metric, message in (("logit_diff", "needs a target and a foil"), ("nll", "nll needs")):
        status, _, error = run("attribute", *options, f"attribution.metric={metric}")
        assert status == 1 and message in error
    assert not (tmp_path / "out").exists()


def test_nan_weights_and_unsupported_architectures_are_named(run, pairs_file, tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    broken = tiny_model("llama", torch.float32)
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    broken.save_pretrained(tmp_path / "nan")
    config = T5Config(num_layers=1, num_heads=2, d_model=8, d_kv=4, d_ff=8, vocab_size=9)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    for name, message in (("nan", "not finite"), ("t5", "'t5' is no type of language model")):
        out = tmp_path / f"{name}-out"
        status, _, error = run("attribute", *arguments(tmp_path / name, pairs_file, out))
        assert status == 1 and message in error
        assert not out.exists()


def test_a_failed_write_leaves_nothing_half_written(
    run, model_dir, pairs_file, tmp_path, monkeypatch
):
    out = tmp_path / "out"

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    status, _, error = run("attribute", *arguments(model_dir, pairs_file, out))
    assert status == 1 and "No space left" in error
    assert list(out.iterdir()) == []


def test_text_pairs_are_tokenized(tiny_dir, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    path = tmp_path / "pairs.jsonl"
    row = {"clean": "12+34=", "corrupted": "12+35=", "target": "46", "foil": "57"}
    path.write_text(json.dumps(row))
    (pair,) = Pairs.load(path, tokenizer)
    assert pair.clean_ids == tuple(tokenizer(row["clean"], add_special_tokens=False).input_ids)
    assert pair.target_id == tokenizer("46", add_special_tokens=False).input_ids[0]
    path.write_text(json.dumps({**row, "corrupted": "12+3="}))
    with pytest.raises(ValueError, match="line 1: clean has 6 tokens and corrupted 5"):
        Pairs.load(path, tokenizer)


def test_help_is_as_wide_as_the_terminal(monkeypatch):
    from analysis.cli import help_text
    from analysis.commands import evaluate

    usage = "Some prose. " * 20 + "\n\n    python -m a.long command " + "x=1 " * 30 + "\n\nMore."
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = help_text(evaluate.Options, usage).splitlines()
        assert columns - 20 < max(len(line) for line in lines if "x=1" not in line) <= columns
        assert sum("x=1" in line for line in lines) == 1  # a command is not broken


def test_help_lists_every_key_and_is_instant(run):
    status, printed, _ = run("attribute", "--help")
    assert status == 0
    for name in ("model.path", "attribution.quadrature=left", "circuit.top_n=null"):
        assert name in printed
    assert parse(Options, ["model.path=a", "pairs.path=b", "out=c"]).attribution.ig_steps == 5


def test_bench_runs_on_a_local_model(run, tmp_path):
    tiny_model("llama", torch.float32).save_pretrained(tmp_path / "model")
    status, printed, _ = run(
        *("bench", f"shape={tmp_path / 'model'}", "tokens=6", "batch=2"),
        *("steps=2", "repeats=2", "memory=false"),
    )
    assert status == 0
    assert "times the floor" in printed
    status, _, error = run("bench", "shape=gpt5")
    assert status == 1 and "known: smollm2-135m" in error
    random_pairs(6).save(tmp_path / "pairs.jsonl")
    stability = ["bench", "part=stability", f"shape={tmp_path / 'model'}", "splits=2"]
    status, printed, _ = run(
        *(*stability, f"prompts={tmp_path / 'pairs.jsonl'}", "shares=0.3", "steps=2"),
        "methods=EAP-IG-inputs,EAP-IG-inputs:auto,CEAP:1,GIM",
    )
    assert status == 0
    assert re.search(r"EAP-IG-inputs:auto: [\d.]+ s, [\d.]+ points a pair, comp", printed)
    assert "CEAP:1, 0.3 of the edges: faithfulness" in printed and "6 distinct" in printed
    assert re.search(r"GIM: [\d.]+ s, completeness", printed)
    status, _, error = run(*stability, "methods=EAP", "metric=kl")
    assert status == 1 and "EAP with kl scores every edge 0" in error
    status, _, error = run(*stability, "methods=GIM", "metric=kl")
    assert status == 1 and "GIM takes its gradient on the clean prompt" in error
    pairs = bench_pairs(BenchOptions(batch=3, tokens=7), 100)
    assert len(pairs) == 3 and len(pairs[0].clean_ids) == 7

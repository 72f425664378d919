"""Circuits of two tiny models, each run in the other."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from analysis.circuits.circuit import Circuit, head_mask
from analysis.circuits.faithfulness import evaluate_circuit
from analysis.circuits.graph_files import write_graph
from analysis.cli import parse
from analysis.commands.compare import act
from analysis.comparison.cross_faithfulness import random_circuit
from analysis.comparison.edges import edge_memberships
from analysis.comparison.subjects import Options, read_subjects
from analysis.heads.resampling import Selection, select
from analysis.records.record_files import read_record, read_scores
from analysis.records.run_file import RunFile
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from tests.support.comparisons import (
    GRAPH,
    options,
)
from tests.support.models import random_pairs, tiny_model
from tests.support.places import ROOT
from tests.support.warm import warm_python


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two runs of one random model and another: one, two, each with its checkpoint-4."""
    root = tmp_path_factory.mktemp("trained")
    settings = TrackingSettings(fraction=0.2, resamples=20, ig_steps=2)
    for name, seed in (("one", 1), ("two", 2)):
        run = root / name
        checkpoint = run / "checkpoint-4"
        model = tiny_model("qwen2", torch.float32, seed)
        model.save_pretrained(checkpoint)
        HeadTracker(run, random_pairs(8, answers=False), settings).track(
            model, 4, show_progress=False
        )
        RunFile(name, "sft", "loss").write(run)
    return root


def cells_of(out: Path) -> dict[tuple[str, str], dict]:
    found = json.loads((out / "comparison.json").read_text())
    return {(c["circuit"], c["model"]): c for c in found["cross_faithfulness"]["cells"]}


def test_cross_faithfulness(tmp_path, trained):
    """Every cell is what evaluate_circuit gives, and the diagonal what the records hold."""
    runs = {"a": trained / "one", "b": trained / "two"}
    arguments = [f"{name}={run}" for name, run in runs.items()]
    act(options(tmp_path, *arguments, "cross=true", "device=cpu", "seed=3"))
    cells = cells_of(tmp_path / "out")
    models = {
        "a": tiny_model("qwen2", torch.float32, 1),
        "b": tiny_model("qwen2", torch.float32, 2),
    }
    records = {name: read_record(run, 4) for name, run in runs.items()}
    for (circuit, model), cell in cells.items():
        record = records[circuit]
        assert record is not None and cell["reason"] is None
        parts = Circuit(record.graph, record.circuit)
        direct = evaluate_circuit(models[model], random_pairs(8, answers=False), parts)
        assert cell["faithfulness"]["value"] == pytest.approx(direct.faithfulness, abs=1e-5)
        assert cell["faithfulness"]["low"] <= cell["faithfulness"]["high"]
        control = random_circuit(parts, 3)
        assert cell["random_edges"] == control.n_edges
        direct = evaluate_circuit(models[model], random_pairs(8, answers=False), control)
        assert cell["random"]["value"] == pytest.approx(direct.faithfulness, abs=1e-5)
        own = cells[model, model]["faithfulness"]["value"]
        assert cell["below_own"]["value"] == pytest.approx(cell["faithfulness"]["value"] - own)
        if circuit == model:
            kept = vars(record.faithfulness(held_out=False))
            assert cell["faithfulness"] == pytest.approx(kept, abs=1e-5)


def test_models_are_those_that_were_recorded(tmp_path, trained, capsys):
    """Other weights than the record names are refused, unless they are asked for; gaps say why."""
    pair = [f"a={trained / 'one'}", f"b={trained / 'two'}", "device=cpu", "cross=true"]
    hidden = trained / "two" / "checkpoint-4"
    kept = hidden.rename(trained / "elsewhere")
    try:
        act(options(tmp_path, *pair))
        text = " ".join(capsys.readouterr().out.split())
        gone = "in model b: empty, because .* has no checkpoint of step 4; .*; give model_b=DIR"
        assert re.search(gone, text)
        assert cells_of(tmp_path / "out")["a", "b"]["faithfulness"] is None
        act(options(tmp_path, *pair, f"model_b={kept}"))
        assert cells_of(tmp_path / "out")["a", "b"]["reason"] is None
        tiny_model("qwen2", torch.float32, 9).save_pretrained(hidden)
        act(options(tmp_path, *pair))
        reason = cells_of(tmp_path / "out")["a", "b"]["reason"]
        assert re.search("has weights .* where .* was recorded; give model_b=", reason)
        capsys.readouterr()
        act(options(tmp_path, *pair, f"model_b={hidden}"))
        assert "used for b as model_b asks" in " ".join(capsys.readouterr().out.split())
        assert cells_of(tmp_path / "out")["a", "b"]["reason"] is None
    finally:
        if hidden.exists():
            hidden.rename(trained / "wrong")
        kept.rename(hidden)


def test_adapters(tmp_path, trained):
    """A checkpoint that is an adapter is run attached to its base, also before it was trained."""
    from peft import LoraConfig, get_peft_model

    run, base = tmp_path / "lora", trained / "one" / "checkpoint-4"
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj", "o_proj"])
    )
    tracker = HeadTracker(
        run,
        random_pairs(8, answers=False),
        TrackingSettings(fraction=0.2, resamples=20, ig_steps=2),
    )
    tracker.track(model, 0, show_progress=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape) / 4)
    after = tracker.track(model, 2, show_progress=False)
    model.save_pretrained(run / "checkpoint-2")
    act(options(tmp_path, f"a={run}@0", f"b={run}@2", "cross=true", "device=cpu"))
    cells = cells_of(tmp_path / "out")
    assert {cell["reason"] for cell in cells.values()} == {None}
    kept = vars(after.faithfulness(held_out=False))
    assert cells["b", "b"]["faithfulness"] == pytest.approx(kept, abs=1e-4)
    assert cells["b", "a"]["faithfulness"]["value"] != cells["b", "b"]["faithfulness"]["value"]
    (run / "checkpoint-2").rename(tmp_path / "moved")
    act(options(tmp_path, f"a={run}@0", f"b={run}@2", "cross=true", "device=cpu"))
    reason = cells_of(tmp_path / "out")["a", "b"]["reason"]  # the base is not taken for it
    assert re.search("has no checkpoint of step 2; it has: none; give model_b=", reason)


def test_random_circuits_have_the_size_and_no_dead_ends():
    for size in (1, 5, 20, 60):
        scores = torch.rand(GRAPH.n_edges, generator=torch.Generator().manual_seed(size))
        circuit = Circuit(GRAPH, select(GRAPH, scores, Selection(size)))
        control = random_circuit(circuit, seed=1)
        assert circuit.n_edges <= control.n_edges <= circuit.n_edges + 6
        if circuit.n_edges:
            assert int(head_mask(GRAPH, control.edges).sum()) == len(control.heads)
    assert torch.equal(random_circuit(circuit, 1).edges, random_circuit(circuit, 1).edges)
    assert not torch.equal(random_circuit(circuit, 1).edges, random_circuit(circuit, 2).edges)


@pytest.mark.distributed
def test_command_line(tmp_path, trained):
    """As a user starts it, from a run, a checkpoint of it and a graph file of it."""
    record = read_record(trained / "one", 4)
    assert record is not None
    scores = torch.zeros(record.graph.n_sources, record.graph.n_destinations)
    scores[tuple(record.graph.edges.T)] = record.mean
    write_graph(tmp_path / "file.json", Circuit(record.graph, record.circuit), scores, 32)
    command = [
        sys.executable,
        "-m",
        "analysis",
        "compare",
        f"a={trained}/one",
        f"b={trained}/two@4",
        f"c={tmp_path}/file.json",
        f"model_c={trained}/one/checkpoint-4",
        f"out={tmp_path}/out",
        "device=cpu",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = cells_of(tmp_path / "out")
    assert cells["c", "c"]["faithfulness"] == pytest.approx(cells["a", "a"]["faithfulness"])
    assert "Loading weights" not in done.stderr  # no progress bar where there is no terminal
    pairs = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]
    assert pairs[1]["heads"]["numbers"]["jaccard"] == {"value": 1, "low": None, "high": None}
    done = subprocess.run(
        [warm_python(), *command[1:5], "b=nowhere"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: b: there is no nowhere; give a run")
    shown = subprocess.run([*command[:4], "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "model_a" in shown.stdout


def test_scores_of_a_run_give_its_heads(trained):
    """Heads of the edges that the bootstrap of edges holds are the heads that were recorded."""
    record = read_record(trained / "one", 4)
    assert record is not None
    scores = read_scores(trained / "one", 4)
    rows = torch.cat([*edge_memberships(record, scores)])
    order = torch.argsort(record.graph.edges[:, 1], stable=True)
    edges = torch.empty_like(rows)
    edges[:, order] = rows
    assert torch.equal(head_mask(record.graph, edges), record.heads.inside)
    assert not math.isnan(record.faithfulness().value)
    (found,) = read_subjects(parse(Options, [f"a={trained}/one", f"b={trained}/one"]))[:1]
    assert found.base is None

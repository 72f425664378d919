"""Tracking checkpoints afterwards: the same as live, resumable, and its mistakes named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis.cli import parse
from analysis.commands.track import Options, act, find_checkpoints
from analysis.models.loading import load_model
from analysis.models.provenance import code_version, weight_hashes
from analysis.prompts.pairs import Pairs
from analysis.records.record_files import read_record, read_records, read_scores
from analysis.records.run_file import RunFile
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from tests.support.models import random_pairs, tiny_model
from tests.support.places import ROOT
from tests.support.warm import warm_python
from train.run import prepare, run

LIVE = [
    "model=hub",
    "data=arithmetic",
    "data.size=64",
    "logger=none",
    "pairs=answer_style",  # without a right answer, which random weights don't have: circuits
    "pairs.size=4",
    "evaluation=none",
    "tracking.resamples=20",
    "tracking.ig_steps=2",
    "train.args.max_steps=4",
    "train.args.save_steps=2",
    "train.args.per_device_train_batch_size=4",
    "train.args.disable_tqdm=true",
    "train.args.learning_rate=1e-3",
]
AFTER = ["tracking.resamples=20", "tracking.ig_steps=2", "wandb_mode=disabled"]


def track(directory: Path, *more: str) -> None:
    act(parse(Options, [f"run={directory}", *AFTER, *more]))


@pytest.mark.parametrize("peft", ["none", "lora"])
def test_afterwards_equals_live(compose, tiny_dir, tmp_path, peft, capsys):
    """Same circuits, and scores to float tolerance, whether live in the trainer or from disk."""
    live, after = tmp_path / "live", tmp_path / "after"
    arguments = [*LIVE, f"model.path={tiny_dir}", f"run_dir={live}", f"peft={peft}"]
    run(prepare(compose("sft", *arguments)))
    given = [
        f"checkpoints={live}/checkpoint-*",
        f"base={tiny_dir}",
        f"pairs={live}/pairs.jsonl",
    ]
    track(after, *given)
    for record in read_records(live):
        found = read_record(after, record.step)
        scores = read_scores(live, record.step)
        error = (read_scores(after, record.step) - scores).abs().max()
        assert error <= 1e-5 * scores.abs().max()
        assert record.circuit.any() and torch.equal(found.circuit, record.circuit)
        assert found.settings == record.settings
        assert found.pairs_hash == record.pairs_hash
        mine, theirs = found.origin["model"], record.origin["model"]
        assert mine["weights"] == theirs["weights"]
        if record.step:  # the live base already carries an adapter, which does nothing yet
            assert mine["adapter"] == theirs["adapter"]
            assert (mine["adapter"] is not None) == (peft == "lora")
    assert (after / "report.html").exists()
    assert (after / "trajectory.json").exists()
    # the base is measured on further pairs as well, those of the run that the file is of
    wide, same = read_record(live, 0).wide, read_record(after, 0).wide
    assert wide is not None and same is not None and 0 < same.further == wide.further
    assert torch.allclose(same.strength, wide.strength, rtol=1e-4, atol=1e-7)
    said = capsys.readouterr().out
    assert f"{wide.further} further pairs" in said and "base_pairs" in said

    before = {path: path.stat().st_mtime_ns for path in after.glob("heads/*/record.json")}
    removed = after / "heads" / "step-000002" / "record.json"
    removed.unlink()
    capsys.readouterr()
    track(after, *given)
    assert "3 checkpoints, 2 of them tracked already" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in after.glob("heads/*/record.json")}
    changed = [path for path in before if times[path] != before[path]]
    assert changed == [removed]
    with pytest.raises(ValueError, match="tracked with other settings; give tracking.ig_steps=2"):
        track(after, *given, "tracking.ig_steps=3")
    (tmp_path / "other.jsonl").write_text('{"clean_ids": [5, 6], "corrupted_ids": [5, 7]}\n')
    with pytest.raises(ValueError, match="holds other pairs"):
        track(after, *given[:2], f"pairs={tmp_path}/other.jsonl")


def test_checkpoints_are_found_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("checkpoint-2", "checkpoint-10", "final"):
        (tmp_path / name).mkdir()
    found = find_checkpoints("checkpoint-*", "base")
    assert found == {0: "base", 2: "checkpoint-2", 10: "checkpoint-10"}
    assert find_checkpoints(f"{tmp_path}/checkpoint-*", "base")[10] == f"{tmp_path}/checkpoint-10"
    assert find_checkpoints(["org/model-a", "org/model-b"], "base")[2] == "org/model-b"
    with pytest.raises(ValueError, match="no directory matches checkpoints=step-"):
        find_checkpoints("step-*", "base")
    with pytest.raises(ValueError, match="some checkpoints end in a step and final does not"):
        find_checkpoints(["checkpoint-2", "final"], "base")
    with pytest.raises(ValueError, match="are both step 2"):
        find_checkpoints(["checkpoint-2", "other/checkpoint-2"], "base")


@pytest.mark.distributed
def test_command_line_with_wandb_offline(tmp_path):
    """As a user starts it: a list of directories, an offline W&B run, the table at the end."""
    for name in ("base", "a", "b"):
        tiny_model("qwen2", torch.float32, seed=ord(name[0])).save_pretrained(tmp_path / name)
    random_pairs(6).save(tmp_path / "pairs.jsonl")
    command = [
        sys.executable,
        "-m",
        "analysis",
        "track",
        "run=out",
        "base=./base",
        "checkpoints=[./a,./b]",
        "pairs=pairs.jsonl",
        "tracking.resamples=20",
        "tracking.ig_steps=2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "[3/3] step 2: ./b" in done.stdout
    assert "wandb leet" in done.stdout
    assert "called: emergent" in done.stdout
    assert "attribution:" not in done.stderr  # no progress bar where there is no terminal
    assert [r.step for r in read_records(tmp_path / "out")] == [0, 1, 2]
    (log,) = (tmp_path / "out").glob("wandb/offline-run-*/*.wandb")
    written = log.read_bytes()
    for name in (b"heads/excess_turnover/lo", b"circuit/faithfulness", b"heads/map"):
        assert name in written
    published = json.loads((tmp_path / "out" / "wandb-published.json").read_text())
    assert sorted(published["offline"]) == ["heads/0", "heads/1", "heads/2"]
    again = [warm_python(), "-m", "analysis", "publish", "run=out"]
    done = subprocess.run(again, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no W&B account on this machine; run `wandb login`" in done.stderr
    shutil.rmtree(tmp_path / "out" / "wandb")
    (tmp_path / "out" / "wandb-published.json").unlink()
    done = subprocess.run(
        [*again, "mode=offline"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "logged 3 rows, steps 0 to 2" in done.stdout, done.stderr
    done = subprocess.run(
        [*again, "mode=offline"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "nothing is missing\n"
    wrong = [warm_python(), *command[1:5], "base=./nowhere", *command[6:]]
    done = subprocess.run(wrong, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stderr.strip() == "error: there is no directory ./nowhere"


def test_a_tracker_writes_nothing_until_it_is_started(tmp_path):
    settings = TrackingSettings(resamples=5, ig_steps=1)
    tracker = HeadTracker(tmp_path / "r", random_pairs(3), settings)
    assert not (tmp_path / "r").exists()
    tracker.start()
    assert Pairs.load(tmp_path / "r" / "pairs.jsonl").hash == tracker.pairs.hash
    other = HeadTracker(str(tmp_path / "r"), random_pairs(3, seed=1), settings)
    model = tiny_model("qwen2", torch.float32)
    for begin in (other.start, lambda: other.track(model, 0, show_progress=False)):
        with pytest.raises(ValueError, match="holds other pairs"):
            begin()
    assert not other.is_tracked(0)
    alone = HeadTracker(tmp_path / "alone", random_pairs(3), settings)
    alone.track(model, 0, show_progress=False)
    assert (tmp_path / "alone" / "pairs.jsonl").read_bytes() == (
        tmp_path / "r" / "pairs.jsonl"
    ).read_bytes()


def test_faithful_circuits_reach_their_faithfulness(tmp_path):
    model = tiny_model("llama", torch.float32)
    settings = TrackingSettings(fraction=None, faithful=0.8, resamples=10, ig_steps=4)
    tracker = HeadTracker(tmp_path, random_pairs(6, answers=False), settings)
    record = tracker.track(model, 0, show_progress=False)
    assert record.faithfulness().value >= 0.8
    assert 1 < record.n_edges <= record.selection["top_n"] < record.graph.n_edges
    saved = json.loads((tmp_path / "heads" / "step-000000" / "record.json").read_text())
    assert saved["circuit"]["faithfulness"]["value"] == pytest.approx(record.faithfulness().value)
    assert saved["origin"]["code"] == code_version()


def test_an_empty_circuit_is_said(tmp_path, caplog):
    settings = TrackingSettings(resamples=5, ig_steps=1, tau=1e6)
    record = HeadTracker(tmp_path, random_pairs(3, answers=False), settings).track(
        tiny_model("qwen2", torch.float32), 0, show_progress=False
    )
    assert record.n_edges == 0 and not record.lacks_behaviour
    assert "with scores of at least tracking.tau=1000000.0" in caplog.text


def test_a_model_with_nan_weights_gets_an_invalid_record(tmp_path, caplog):
    """No crash and no made-up circuit; the checkpoints around it are compared as ever."""
    from analysis.reporting.present import present
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import Run

    run_dir = tmp_path / "r"
    settings = TrackingSettings(resamples=10, ig_steps=2)
    tracker = HeadTracker(run_dir, random_pairs(4, answers=False), settings)
    RunFile("r", "track").write(run_dir)
    tracker.start()
    model = tiny_model("qwen2", torch.float32)
    tracker.track(model, 0, show_progress=False)
    weight = model.model.layers[1].self_attn.o_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.nan
    assert tracker.track(model, 5, show_progress=False) is None
    assert "model.layers.1.self_attn.o_proj.weight is not finite" in caplog.text
    with torch.no_grad():
        weight.copy_(kept * 1.5)
    tracker.track(model, 10, show_progress=False)
    assert tracker.is_tracked(5)
    points = Run.read(run_dir).points
    assert [point.step for point in points] == [0, 10]
    assert all(point.record.circuit.any() for point in points)
    text = format_table(Run.read(run_dir))
    assert "invalid: at step 5 model.layers.1.self_attn.o_proj.weight is not finite" in " ".join(
        text.split()
    )
    present(run_dir)
    assert "invalid: at step 5" in (run_dir / "report.html").read_text()
    with pytest.raises(ValueError, match="has no valid record of step 5"):
        read_scores(run_dir, 5)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path, monkeypatch, caplog, error):
    from analysis.tracking import tracker as module

    original, sizes = module.attribute, []

    def small_machine(model, pairs, **how):
        sizes.append(how["batch_size"])
        if how["batch_size"] > 2:
            raise error
        return original(model, pairs, **how)

    settings = TrackingSettings(resamples=5, ig_steps=2, batch_size=8)
    model = tiny_model("qwen2", torch.float32)
    HeadTracker(tmp_path / "a", random_pairs(5), settings).track(model, 0, show_progress=False)
    monkeypatch.setattr(module, "attribute", small_machine)
    poor = HeadTracker(tmp_path / "b", random_pairs(5), settings)
    poor.track(model, 0, show_progress=False)
    poor.track(model, 1, show_progress=False)
    assert sizes == [8, 4, 2, 2]  # what was learned is kept
    assert "going on with batches of 2 pairs" in caplog.text
    a, b = (read_scores(tmp_path / name, 0) for name in "ab")
    assert (a - b).abs().max() <= 1e-6 * a.abs().max()

    def hopeless(*args, **kwargs):
        raise error

    monkeypatch.setattr(module, "attribute", hopeless)
    with pytest.raises(RuntimeError):
        poor.track(model, 2, show_progress=False)


def test_hashes_tell_weights_and_adapters_apart(tmp_path):
    from peft import LoraConfig, get_peft_model

    plain = tiny_model("qwen2", torch.float32)
    base = weight_hashes(plain)
    assert base["adapter"] is None
    config = LoraConfig(target_modules=["q_proj", "o_proj"], r=2)
    adapted = get_peft_model(tiny_model("qwen2", torch.float32), config)
    found = weight_hashes(adapted)
    assert found["weights"] == base["weights"]
    plain.save_pretrained(tmp_path / "base")
    adapted.base_model.model.config._name_or_path = str(tmp_path / "base")
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    assert weight_hashes(load_model(tmp_path / "adapter", "float32")) == found
    with torch.no_grad():
        next(plain.parameters()).view(-1)[0] += 1
    assert weight_hashes(plain)["weights"] != base["weights"]


def test_calls_are_made_by_default_as_a_trajectory_does():
    from analysis.heads.changes import FDR
    from analysis.tracking.settings import TrackingOptions
    from analysis.trajectories.trajectory import HYSTERESIS

    assert (TrackingOptions().fdr, TrackingOptions().hysteresis) == (FDR, HYSTERESIS)


def test_a_command_refuses_calls_that_are_none():
    given = ["run=r", "checkpoints=c", "base=b", "pairs=p"]
    with pytest.raises(ValueError, match=r"tracking.fdr must lie in \(0, 1\), not 1.5"):
        parse(Options, [*given, "tracking.fdr=1.5"])
    with pytest.raises(ValueError, match="tracking.hysteresis must be at least 1, not 0"):
        parse(Options, [*given, "tracking.hysteresis=0"])


def test_a_mistake_leaves_nothing_that_refuses_the_mended_command(tiny_dir, tmp_path):
    """In the pairs nothing is written; in a checkpoint, other pairs and settings may be given."""
    from tests.support.hung import write_pairs

    directory, pairs = tmp_path / "r", write_pairs(tmp_path / "pairs.jsonl")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"clean": "1+1=", "corrupted": "1+1="}\n')
    given = [f"base={tiny_dir}", f"checkpoints={tiny_dir}"]
    with pytest.raises(ValueError, match=r"wrong.jsonl, line 1: clean and corrupted are the same"):
        track(directory, *given, f"pairs={wrong}")
    assert not directory.exists()
    (tmp_path / "empty").mkdir()
    ids = tmp_path / "ids.jsonl"
    ids.write_text('{"clean_ids": [3, 4], "corrupted_ids": [5, 4]}\n')
    more = [f"base={tmp_path}/empty", f"checkpoints={tiny_dir}", f"pairs={ids}"]
    with pytest.raises(ValueError, match="empty"):
        track(directory, *more, "tracking.ig_steps=3")
    assert RunFile.read(directory).tracking["ig_steps"] == 3
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(pairs.read_text().splitlines()[:2]))
    track(directory, *given, f"pairs={other}")
    assert [record.step for record in read_records(directory)] == [0, 1]
    assert RunFile.read(directory).tracking["ig_steps"] == 2
    with pytest.raises(ValueError, match="holds other pairs"):
        track(directory, *given, f"pairs={pairs}")

"""Whole runs on the embedded tiny model: what tracking leaves alone, resuming, LoRA, launching."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.records.evaluations import read_evaluations
from analysis.records.record_files import read_record, read_records, read_scores
from analysis.records.training_log import read_metrics
from tests.support.places import ROOT
from tests.support.runs import assert_same, final_state, small
from tests.support.warm import pid_of, warm_python
from train.checkpoints import is_complete, last_complete, write_manifest
from train.run import prepare, run


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_tracking_leaves_the_run_bit_identical(finished_run, tiny_dir, kind):
    """Same weights, optimizer and random state with and without tracking and evaluation."""
    tracked, bare = finished_run(kind), finished_run(kind, "tracking=none", "evaluation=none")
    assert_same(final_state(tracked), final_state(bare))
    start = load_file(tiny_dir / "model.safetensors")
    assert any(not torch.equal(start[k], final_state(bare)[k]) for k in start)  # it did train

    records = read_records(tracked)
    assert [record.step for record in records] == [0, 2, 4]
    assert records[0].mean.any()  # random weights: scores, but no behaviour, so no circuit
    assert list(read_evaluations(tracked)) == [0, 2, 4]
    assert set(read_metrics(tracked)) >= {1, 2, 3, 4}
    assert ("reward" if kind == "grpo" else "loss") in read_metrics(tracked)[4]
    assert (tracked / "report.html").stat().st_size > 100_000
    assert not (bare / "heads").exists()
    hashes = {record.pairs_hash for record in records}
    assert hashes == {json.loads((tracked / "pairs.json").read_text())["hash"]}


def test_the_base_record_is_that_of_the_base_model(finished_run, tiny_dir):
    """What the callback finds live at step 0 is what attribution finds on the model from disk."""
    from transformers import AutoModelForCausalLM

    from analysis import Pairs, attribute

    finished = finished_run("sft", "evaluation=none")
    pairs = Pairs.load(finished / "pairs.jsonl")
    for step, source in ((0, tiny_dir), (4, finished / "checkpoint-4")):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        record = read_record(finished, step)
        quadrature = record.settings["quadrature"]
        scores = attribute(model, pairs, ig_steps=2, quadrature=quadrature).per_edge
        found = read_scores(finished, step)
        assert (found - scores).abs().max() < 1e-5 * scores.abs().max()


def test_lora_runs_are_tracked_attached(compose, tiny_dir, tmp_path):
    run(prepare(compose("sft", *small("sft", tiny_dir, tmp_path / "r", "peft=lora"))))
    assert (tmp_path / "r" / "checkpoint-4" / "adapter_model.safetensors").exists()
    records = read_records(tmp_path / "r")
    hashes = [record.origin["model"] for record in records]
    assert len({found["weights"] for found in hashes}) == 1  # the base stays as it was,
    assert len({found["adapter"] for found in hashes}) == 3  # the adapter is trained
    assert not torch.equal(records[0].mean, records[2].mean)


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_failure_in_tracking_never_loses_a_checkpoint(
    compose, tiny_dir, tmp_path, monkeypatch, caplog, on_error
):
    from analysis.tracking.tracker import HeadTracker

    original = HeadTracker.track

    def fail_at_two(self, model, step, show_progress=True):
        if step == 2:
            raise RuntimeError("attribution broke")
        return original(self, model, step, show_progress)

    monkeypatch.setattr(HeadTracker, "track", fail_at_two)
    arguments = small("sft", tiny_dir, tmp_path / "r", f"tracking.on_error={on_error}")
    plan = prepare(compose("sft", *arguments, "evaluation=none"))
    if on_error == "raise":
        with pytest.raises(RuntimeError, match="attribution broke"):
            run(plan)
    else:
        run(plan)
        assert is_complete(tmp_path / "r" / "checkpoint-4")
        assert [record.step for record in read_records(tmp_path / "r")] == [0, 4]
        assert "head tracking failed at step 2; the checkpoint is safe" in caplog.text
    assert is_complete(tmp_path / "r" / "checkpoint-2")


def test_only_complete_checkpoints_are_resumed_from(tmp_path, caplog):
    for step in (2, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(b"x" * 10)
    assert last_complete(tmp_path) is None
    write_manifest(tmp_path / "checkpoint-2")
    assert last_complete(tmp_path) == tmp_path / "checkpoint-2"
    assert "checkpoint-10 is incomplete" in caplog.text
    write_manifest(tmp_path / "checkpoint-10")
    assert last_complete(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"x" * 9)
    assert last_complete(tmp_path) == tmp_path / "checkpoint-2"


def start(kind: str, arguments: list[str], cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [warm_python(), "-m", f"train.{kind}", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_killed_and_resumed_equals_unbroken(compose, finished_run, tiny_dir, tmp_path, kind):
    """SIGKILL after the first checkpoint, before or while it is tracked; resume=auto goes on."""
    broken, whole = tmp_path / "broken", finished_run(kind)
    child = start(kind, small(kind, tiny_dir, broken), tmp_path)
    manifest = broken / "checkpoint-2" / "headlab.json"
    while child.poll() is None and not manifest.exists():
        time.sleep(0.01)
    os.kill(pid_of(child), signal.SIGKILL)
    child.wait()
    assert manifest.exists()
    assert not (broken / "checkpoint-4").exists()
    again = small(kind, tiny_dir, broken, "resume=auto")
    run(prepare(compose(kind, *again)))
    assert_same(final_state(broken), final_state(whole))
    for record, expected in zip(read_records(broken), read_records(whole), strict=True):
        assert record.step == expected.step
        assert torch.equal(read_scores(broken, record.step), read_scores(whole, record.step))
        assert torch.equal(record.circuit, expected.circuit)
        assert torch.equal(record.resampled.strength, expected.resampled.strength)
        assert record.origin["model"]["weights"] == expected.origin["model"]["weights"]
    assert read_evaluations(broken) == read_evaluations(whole)

    # finished: nothing is trained any more, but what a stop after the last save left out is made up
    kept = read_scores(broken, 4)
    (broken / "heads" / "step-000004" / "record.json").unlink()
    run(prepare(compose(kind, *again)))
    assert sorted(path.name for path in broken.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert torch.allclose(read_scores(broken, 4), kept, atol=1e-6)
    with pytest.raises(ValueError, match="started with other settings: pairs"):
        prepare(compose(kind, *again, "pairs.size=5"))


@pytest.mark.distributed
def test_launch_in_two_processes_tracks_once(tiny_dir, tmp_path):
    """Data-parallel over gloo: one set of records, one report, and the launcher's resolved file."""
    done = subprocess.run(
        [
            warm_python(),
            "-m",
            "launch",
            "train=sft",
            *small("sft", tiny_dir, tmp_path / "r"),
            "resources.processes=2",
            "logger=wandb",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MY_API_KEY": "planted-secret"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [record.step for record in read_records(tmp_path / "r")] == [0, 2, 4]
    assert (tmp_path / "r" / "checkpoint-4" / "rng_state_1.pth").exists()  # there were two ranks
    logs = list((tmp_path / "r" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 1
    written = logs[0].read_bytes()
    assert b"heads/emergent" in written
    assert b"eval/held_out/pass@1" in written
    assert b"ig_steps" in written  # the resolved configuration
    for path in (tmp_path / "r").rglob("*"):
        assert not path.is_file() or b"planted-secret" not in path.read_bytes()
    assert "wandb sync" in done.stdout


def test_checkpoints_are_evaluated_on_tasks(compose, tiny_dir, tmp_path):
    """A benchmark beside the held-out problems, or alone; an answer that was given is kept."""
    rows = [{"problem": f"{n}+1=?", "answer": str(n + 1)} for n in range(3)]
    task = tmp_path / "three.jsonl"
    task.write_text("\n".join(map(json.dumps, rows)))
    tasks = [f"evaluation.tasks=['jsonl:{task}']", "tracking=none", "evaluation.think=off"]
    run(prepare(compose("sft", *small("sft", tiny_dir, tmp_path / "both", *tasks))))
    assert list(read_evaluations(tmp_path / "both")) == [0, 2, 4]
    scores = read_evaluations(tmp_path / "both", "three")
    assert list(scores) == [0, 2, 4]
    assert (scores[4]["problems"], scores[4]["samples"]) == (3, 2)
    answers = tmp_path / "both" / "evaluations" / "three" / "completions" / "step-000004.jsonl"
    assert len(answers.read_text().splitlines()) == 6
    assert "Benchmarks, pass@1 %" in (tmp_path / "both" / "report.html").read_text()
    alone = [*tasks, "evaluation.held_out=false", "evaluation.task_size=2"]
    run(prepare(compose("sft", *small("sft", tiny_dir, tmp_path / "alone", *alone))))
    assert read_evaluations(tmp_path / "alone") == {}
    assert read_evaluations(tmp_path / "alone", "three")[4]["problems"] == 2
    with pytest.raises(ValueError, match="unknown task 'aime'"):
        prepare(compose("sft", *small("sft", tiny_dir, tmp_path / "no", "evaluation.tasks=[aime]")))


def test_deepspeed_imports_on_a_machine_without_a_gpu():
    """Its server imports it, in a process where none of our code has run."""
    done = subprocess.run([warm_python(), "-c", "import deepspeed"], capture_output=True)
    assert done.returncode == 0


def test_problems_that_make_no_pairs_are_one_clear_error(tiny_dir, tmp_path):
    rows = [{"question": f"Is {i * 'very '}good?", "answer": "yes"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = subprocess.run(
        [
            warm_python(),
            "-m",
            "train.grpo",
            "model=hub",
            f"model.path={tiny_dir}",
            "data=file",
            "data.source=jsonl:rows.jsonl",
            "data.problem_column=question",
            "evaluation=none",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "problems gave only 0 counterfactual pairs of 16" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_local_file_with_its_own_columns_is_trained_and_tracked(compose, tiny_dir, tmp_path):
    rows = [{"q": f"{i}+{i}=?", "a": str(2 * i), "s": f"{i}+{i}={2 * i}"} for i in range(1, 60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    columns = ["data.problem_column=q", "data.answer_column=a", "data.solution_column=s"]
    arguments = [
        word for word in small("sft", tiny_dir, tmp_path / "r") if word != "data=arithmetic"
    ]
    more = [
        "data=file",
        f"data.source=jsonl:{path}",
        *columns,
        "evaluation=none",
        "data.size=20",
        "data.held_out_every=2",
    ]
    run(prepare(compose("sft", *arguments, *more)))
    assert [record.step for record in read_records(tmp_path / "r")] == [0, 2, 4]

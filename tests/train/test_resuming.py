"""A run goes on as the same run, or says why not; a start that took no step is started again."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from analysis.live.manifest import MANIFEST
from analysis.records.run_file import RunFile
from analysis.records.training_log import read_metrics
from tests.support.places import ROOT
from tests.support.runs import assert_same, final_state, small
from train.checkpoints import (
    can_go_on_from,
    check_processes,
    is_complete,
    is_interrupted,
    tokens_seen,
    write_manifest,
)
from train.inputs import INPUTS, check_inputs, input_files, note_inputs
from train.keeper import FINISHED, finished_step
from train.resuming import ARGUMENTS, PARTS, check_same_run, clear, is_begun, may_change
from train.run import prepare, run

QUIET = ("evaluation=none", "tracking=none")


@pytest.fixture(scope="module")
def unbroken(finished_run) -> Path:
    """A small run that nothing stopped; only read."""
    return Path(finished_run("sft", *QUIET))


@pytest.fixture
def stopped(unbroken, tmp_path) -> Path:
    """A copy of it as it was after its first checkpoint."""
    directory = Path(shutil.copytree(unbroken, tmp_path / "r"))
    shutil.rmtree(directory / "checkpoint-4")
    (directory / "finished.json").unlink()
    return directory


@pytest.fixture
def again(compose, tiny_model_files):
    """again(directory, *more): the plan that goes on with a run."""

    def planned(directory: Path, *more: str):
        words = small("sft", tiny_model_files, directory, *QUIET, *more, "resume=auto")
        return prepare(compose("sft", *words))

    return planned


def test_a_resumed_run_counts_its_tokens_on(stopped, unbroken, again):
    """Also: config.yaml stays what was trained, and weights are those of the unbroken run."""
    assert tokens_seen(stopped / "checkpoint-2") == read_metrics(unbroken)[2]["num_tokens"]
    (stopped / "metrics.jsonl").unlink()
    run(again(stopped, "train.args.logging_first_step=true"))
    found, wanted = read_metrics(stopped), read_metrics(unbroken)
    assert [found[step]["num_tokens"] for step in (3, 4)] == [
        wanted[step]["num_tokens"] for step in (3, 4)
    ]
    logged = json.loads((stopped / "checkpoint-4" / "trainer_state.json").read_text())
    tokens = [row["num_tokens"] for row in logged["log_history"] if "num_tokens" in row]
    assert tokens == sorted(set(tokens))
    assert_same(final_state(stopped), final_state(unbroken))


CHANGED = [
    (["train.args.learning_rate=1e-2"], r"train.args.learning_rate \(0.001 -> 0.01\)"),
    (["train.args.max_steps=8"], r"train.args.max_steps \(4 -> 8\)"),
    (["data.size=32"], r"data.size \(64 -> 32\)"),
    (["deepspeed=zero1"], "deepspeed.config"),
]


@pytest.mark.parametrize(("words", "said"), CHANGED, ids=lambda value: str(value)[:40])
def test_what_shapes_the_training_may_not_change(stopped, again, words, said):
    before = (stopped / "config.yaml").read_bytes()
    with pytest.raises(
        ValueError, match=f"started with other settings: .*{said}.*docs/training.md"
    ):
        again(stopped, *words)
    assert (stopped / "config.yaml").read_bytes() == before
    assert "RANK" not in os.environ  # DeepSpeed's world, if there was one, is left


def test_what_shapes_no_training_may_change(stopped, again):
    words = ["train.args.save_steps=1", "train.args.logging_steps=2", "logger.wandb_project=p"]
    assert again(stopped, *words, "train.args.eval_strategy=no").checkpoint is not None


def test_settings_of_an_earlier_version_are_the_same():
    train = {"kind": "grpo", "args": {"reward_weights": [1.0, 1.0]}}
    now = {"seed": 0, "train": {"kind": "grpo", "args": {"reward_weights": None}}}
    check_same_run({"seed": 0, "train": train}, now)
    check_same_run({"train": train}, {**now, "data": {"worked_share": 1.0}})
    with pytest.raises(ValueError, match=r"data.worked_share \(None -> 0.5\)"):
        check_same_run({"seed": 0, "train": train}, {**now, "data": {"worked_share": 0.5}})


def test_the_docs_have_the_list_of_what_may_change():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([^`]+)`", page.partition("## When a run is stopped")[2]))
    missing = [name for name in (*PARTS, *ARGUMENTS) if name not in told]
    assert missing == []
    assert may_change("tracking.batch_size")
    assert not may_change("tracking.metric")


def test_weights_only_are_no_checkpoint_to_go_on_from(stopped, again, caplog):
    weights_only = Path(shutil.copytree(stopped / "checkpoint-2", stopped / "checkpoint-3"))
    (weights_only / "optimizer.pt").unlink()
    write_manifest(weights_only)
    assert not can_go_on_from(weights_only)
    with caplog.at_level(logging.WARNING):
        assert again(stopped).checkpoint == stopped / "checkpoint-2"
    assert "checkpoint-3 holds no state of the optimizer; it is passed over" in caplog.text
    shutil.rmtree(stopped / "checkpoint-2")
    with pytest.raises(ValueError, match="can't go on as the same run; start another from its"):
        again(stopped)


def test_a_state_of_deepspeed_is_one_to_go_on_from(tmp_path):
    for name in ("latest", "trainer_state.json", "rng_state_0.pth", "rng_state_1.pth"):
        (tmp_path / name).write_text("x")
    assert can_go_on_from(tmp_path)
    check_processes(tmp_path, 2)
    with pytest.raises(ValueError, match="saved by 2 processes, and with 4 the run would not be"):
        check_processes(tmp_path, 4)


def test_a_damaged_state_is_one_line(stopped, again):
    (stopped / "checkpoint-2" / "trainer_state.json").write_text("{")
    write_manifest(stopped / "checkpoint-2")
    with pytest.raises(ValueError, match="trainer_state.json can't be read .*; remove"):
        again(stopped)


def test_files_that_were_edited_make_another_run(compose, tiny_dir, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"problem": "1+1?", "answer": "2"}\n')
    words = ["data=file", f"data.source=jsonl:{data}", "evaluation=none", "model=hub"]
    cfg = compose("sft", *words, f"model.path={tiny_dir}", f"run_dir={tmp_path}/r")
    assert {"data.source", "model.path model.safetensors", "model.path tokenizer.json"} <= set(
        input_files(cfg)
    )
    check_inputs(tmp_path / "r", cfg)  # of an earlier version: nothing is known
    note_inputs(tmp_path / "r", cfg)
    check_inputs(tmp_path / "r", cfg)
    weights = tiny_dir / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content)  # touched, and the same
    check_inputs(tmp_path / "r", cfg)
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"hold something else now: model.path model.safetensors"):
        check_inputs(tmp_path / "r", cfg)
    weights.write_bytes(content)
    data.write_text('{"problem": "1+2?", "answer": "3"}\n')
    with pytest.raises(ValueError, match="data.source .*rows.jsonl"):
        check_inputs(tmp_path / "r", cfg)


def test_a_start_that_took_no_step_may_be_started_again(compose, tmp_path):
    directory = tmp_path / "r"
    assert not is_begun(directory)
    RunFile("n", "sft").write(directory)
    (directory / "config.yaml").write_text(yaml.safe_dump({"train": {"kind": "sft"}}))
    (directory / "pairs.jsonl").write_text("x")
    (directory / "heads" / "step-000000").mkdir(parents=True)
    assert not is_begun(directory)
    (directory / "heads" / "step-000001").mkdir()
    assert is_begun(directory)
    (directory / "heads" / "step-000001").rmdir()
    (directory / "metrics.jsonl").write_text("{}")
    assert is_begun(directory)
    (directory / "metrics.jsonl").unlink()
    clear(directory)
    assert list(directory.iterdir()) == []
    RunFile("n", "track").write(directory)  # no training's
    assert is_begun(directory)


def test_a_mistake_found_late_leaves_nothing_that_refuses_the_mended_start(
    compose, tiny_dir, tmp_path, monkeypatch, capsys
):
    """In the trainer, and in the first step: one line, and then the mended command trains."""
    from train import run as module

    monkeypatch.setattr(logging.root, "handlers", [])  # other tests leave some on closed streams
    directory = tmp_path / "r"
    more = ["evaluation=none", "train.args.max_steps=1", "tracking.resamples=4", "pairs.size=2"]
    words = small("sft", tiny_dir, directory, *more)

    def refuses(*parts, **named):
        raise ValueError("no\nsuch thing")

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(module, "build_trainer", refuses)
        module.run_or_exit(compose("sft", *words))
    *counts, line = capsys.readouterr().err.splitlines()
    assert (ended.value.code, line) == (2, "error: no such thing")
    assert all(count.startswith("training data: ") for count in counts)
    assert [path.name for path in directory.iterdir()] == ["locks"]
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr("trl.SFTTrainer.compute_loss", refuses)
        module.run_or_exit(compose("sft", *words))
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no such thing"
    assert (directory / "config.yaml").exists()
    module.run_or_exit(compose("sft", *words, "seed=1", "pairs.size=3"))
    assert (directory / "checkpoint-1").is_dir()
    assert yaml.safe_load((directory / "config.yaml").read_text())["seed"] == 1


def test_a_fault_of_the_program_keeps_its_traceback(compose, tiny_dir, tmp_path, monkeypatch):
    from train import run as module

    monkeypatch.setattr(module, "build_trainer", lambda *parts: {}["a fault"])
    with pytest.raises(KeyError, match="a fault"):
        module.run_or_exit(compose("sft", *small("sft", tiny_dir, tmp_path / "r", *QUIET)))


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": {"a": "b"}}', "\x00", "{}"])
def test_what_is_damaged_is_not_complete_or_one_line(tmp_path, text):
    """The manifest, the last step, the inputs: whatever stands in them, no other exception."""
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    for file in (checkpoint / MANIFEST, tmp_path / FINISHED, tmp_path / INPUTS):
        file.write_text(text)
    assert not is_complete(checkpoint)
    assert not is_interrupted(checkpoint)
    assert tokens_seen(checkpoint) is None
    with pytest.raises(ValueError, match=FINISHED):
        finished_step(tmp_path)
    with pytest.raises(ValueError, match="inputs.json.*restore it, or name another run"):
        check_inputs(tmp_path, OmegaConf.create({}))

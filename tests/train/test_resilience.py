"""Schedules, budgets, pruned checkpoints, a full disk, SIGTERM, secrets."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis.live.schedule import Budget, Schedule
from analysis.records.record_files import read_record, read_records
from analysis.records.secrets import secrets_in
from analysis.tracking.tracker import HeadTracker
from tests.support.places import ROOT
from tests.support.runs import assert_same, final_state, small
from tests.support.warm import warm_python
from train.checkpoints import checkpoints, discard, is_complete, tidy, write_manifest
from train.config import check
from train.disk import DiskFull, explained_if_full, is_full
from train.run import prepare, run


@pytest.mark.parametrize(
    ("value", "due"),
    [
        ("saves", []),
        ("every:5", [5, 10, 15, 20]),
        ("exponential", [1, 2, 4, 8, 16]),
        ("exponential:3", [1, 3, 9]),
        ([7, 3], [3, 7]),
    ],
)
def test_schedules(value, due):
    schedule = Schedule.parse(value)
    assert [step for step in range(1, 21) if schedule.is_due(step)] == due
    assert schedule.includes(0, 20)
    assert schedule.includes(20, 20)
    assert schedule.includes(13, 20) == (value == "saves")


@pytest.mark.parametrize("value", ["always", "every", "every:0", "exponential:1", [], ["a"], [-1]])
def test_other_schedules_are_refused(value):
    with pytest.raises(ValueError, match="tracking.schedule is .*; choose saves, every:N"):
        Schedule.parse(value)


def test_steps_between_saves_are_tracked_inline(compose, tiny_dir, tmp_path):
    """And every training state is what it is without."""
    tracked, bare = tmp_path / "tracked", tmp_path / "bare"
    more = ["evaluation=none", "train.args.save_steps=4"]
    schedule = ["tracking.schedule=every:1"]
    run(prepare(compose("sft", *small("sft", tiny_dir, tracked, *more, *schedule))))
    run(prepare(compose("sft", *small("sft", tiny_dir, bare, *more, "tracking=none"))))
    assert [record.step for record in read_records(tracked)] == [0, 1, 2, 3, 4]
    assert [path.name for path in checkpoints(tracked)] == ["checkpoint-4"]
    assert_same(final_state(tracked), final_state(bare))


def test_a_budget_thins_the_schedule_and_says_so(compose, tiny_dir, tmp_path, monkeypatch, caplog):
    original = HeadTracker.track

    def slow(self, model, step, show_progress=True):
        time.sleep(0.5)
        return original(self, model, step, show_progress)

    monkeypatch.setattr(HeadTracker, "track", slow)
    more = ["evaluation=none", "train.args.save_steps=1", "tracking.budget=0.01"]
    run(prepare(compose("sft", *small("sft", tiny_dir, tmp_path / "r", *more))))
    assert [record.step for record in read_records(tmp_path / "r")] == [0, 4]  # the two ends
    assert "step 2 is not tracked: tracking would take" in caplog.text
    assert "tracking.budget allows 1.0 %" in caplog.text


def test_a_budget_allows_what_fits():
    budget = Budget(0.5)
    budget.started -= 100
    assert budget.allows(1)
    budget.add(49)
    assert not budget.allows(2)  # 98 of 149 s
    budget.started -= 100
    assert budget.allows(3)
    assert Budget(None).allows(1)


def test_old_checkpoints_go_and_the_trajectory_stays(compose, tiny_dir, tmp_path):
    more = ["evaluation=none", "train.args.save_steps=1", "train.args.save_total_limit=2"]
    run(prepare(compose("sft", *small("sft", tiny_dir, tmp_path / "r", *more))))
    assert [path.name for path in checkpoints(tmp_path / "r")] == ["checkpoint-3", "checkpoint-4"]
    assert [record.step for record in read_records(tmp_path / "r")] == [0, 1, 2, 3, 4]


def test_what_is_still_to_be_tracked_does_not_go(compose, tiny_dir, tmp_path):
    from launch.sidecar import Options, act

    directory = tmp_path / "r"
    more = [
        "evaluation=none",
        "train.args.save_steps=1",
        "train.args.save_total_limit=1",
        "tracking.where=sidecar",
        "tracking.schedule=[2]",
    ]
    run(prepare(compose("sft", *small("sft", tiny_dir, directory, *more))))
    assert [path.name for path in checkpoints(directory)] == ["checkpoint-2", "checkpoint-4"]
    act(Options(run=str(directory), device="cpu"))
    assert [record.step for record in read_records(directory)] == [0, 2, 4]


def make(run_directory: Path, step: int, interrupted: bool = False) -> Path:
    checkpoint = run_directory / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"x")
    write_manifest(checkpoint, interrupted)
    return checkpoint


def test_tidying_keeps_the_best_and_removes_what_an_interruption_left(tmp_path):
    best = make(tmp_path, 1)
    for step in (2, 4, 6):
        make(tmp_path, step)
    make(tmp_path, 5, interrupted=True)
    (tmp_path / "checkpoint-3").mkdir()  # half-written: nobody's to remove
    tidy(tmp_path, 2, lambda step: True, str(best))
    left = [path.name for path in checkpoints(tmp_path)]
    assert left == ["checkpoint-1", "checkpoint-3", "checkpoint-4", "checkpoint-6"]
    discard(best)
    make(tmp_path, 7, interrupted=True)
    tidy(tmp_path, 1, lambda step: step != 4, None)  # the newest is an interruption's: it stays too
    left = [path.name for path in checkpoints(tmp_path) if is_complete(path)]
    assert left == ["checkpoint-4", "checkpoint-6", "checkpoint-7"]
    discard(tmp_path / "checkpoint-7")
    assert not (tmp_path / "checkpoint-7").exists()


CAN_MOUNT = subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
FULL_DISK = """
set -e
mount -t tmpfs -o size=23m tmpfs "$DISK"
set +e
"$PYTHON" -m train.sft "$@"
echo "first $?"
ls "$DISK/r"
rm "$DISK/r/report.html"
mount -o remount,size=60m "$DISK"
"$PYTHON" -m train.sft "$@" resume=auto > /dev/null
echo "second $?"
ls "$DISK/r"
"""


@pytest.mark.distributed
@pytest.mark.skipif(not CAN_MOUNT, reason="needs a mount namespace of its own, to fill a disk")
def test_a_full_disk_ends_the_run_with_one_line_and_loses_nothing(tiny_dir, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    words = small("sft", tiny_dir, disk / "r", "evaluation=none")
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", FULL_DISK, "bash", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DISK": str(disk), "PYTHON": sys.executable},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    first, second = done.stdout.split("second 0\n")
    assert "first 1\n" in first, done.stderr[-2000:]
    assert "no space is left for" in done.stderr
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: no space"))
    assert "checkpoint-2 is complete. Free some space" in error
    assert "finished.json" not in first
    assert "finished.json" in second


def test_a_full_disk_is_known_by_its_number_its_words_or_what_is_left(tmp_path, monkeypatch):
    import shutil

    assert is_full(OSError(errno.ENOSPC, "no"), tmp_path)
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert not is_full(RuntimeError("another"), tmp_path)
    with pytest.raises(RuntimeError, match="another"), explained_if_full(tmp_path):
        raise RuntimeError("another")
    make(tmp_path, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(DiskFull, match="checkpoint-2 is complete"), explained_if_full(tmp_path):
        raise RuntimeError("file write failed")


def test_a_run_in_use_is_refused_by_its_holder_name(compose, tiny_dir, tmp_path):
    from analysis.records.locks import Held, Lock

    plan = prepare(compose("sft", *small("sft", tiny_dir, tmp_path / "r")))
    with (
        Lock.take(tmp_path / "r" / "locks" / "run", "r"),
        pytest.raises(Held, match=f"is in use by process {os.getpid()} on "),
    ):
        run(plan)
    assert not (tmp_path / "r" / "config.yaml").exists()


def test_secrets_are_refused_in_a_configuration(compose, tmp_path):
    cfg = compose("sft", f"run_dir={tmp_path}", "train.args.hub_token=hf_planted")
    with pytest.raises(ValueError, match="train.args.hub_token would write a secret") as caught:
        check(cfg)
    assert "hf_planted" not in str(caught.value)
    assert secrets_in({"args": {"eos_token": "</s>", "api_key": "x", "hub_token": None}}) == [
        "args.api_key"
    ]


def test_no_planted_key_is_written_anywhere(compose, tiny_dir, tmp_path):
    planted = {
        name: f"planted-{name.lower()}"
        for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY")
    }
    words = small("sft", tiny_dir, tmp_path / "r", "logger=wandb", "train.args.max_steps=2")
    done = subprocess.run(
        [warm_python(), "-m", "launch", "train=sft", *words],
        env={**os.environ, **planted, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = [path for path in (tmp_path / "r").rglob("*") if path.is_file()]
    assert any("offline-run" in str(path) for path in written)
    for value in planted.values():
        assert value not in done.stdout + done.stderr
        assert not [path for path in written if value.encode() in path.read_bytes()]


def test_quantised_models_are_refused(tiny_dir, compose, tmp_path):
    from analysis.detection.detect import anatomy
    from tests.support.models import tiny_model

    model = tiny_model("qwen2")
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(ValueError, match="is quantised .bitsandbytes, 8 bits., and heads can't be"):
        anatomy(model)
    options = "train.args.model_init_kwargs={quantization_config: {load_in_8bit: true}}"
    cfg = compose("sft", *small("sft", tiny_dir, tmp_path / "r", options))
    with pytest.raises(ValueError, match="is quantised .*8 bits.*or train with tracking=none"):
        prepare(cfg)


def test_weights_that_are_not_safetensors_are_not_loaded(compose, tiny_dir, tmp_path):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(tiny_dir / "model.safetensors"), tiny_dir / "pytorch_model.bin")
    (tiny_dir / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights in safetensors; write them with"):
        prepare(compose("sft", *small("sft", tiny_dir, tmp_path / "r", "tracking=none")))
    assert not (tmp_path / "r").exists()


def test_a_checkpoint_that_a_stop_left_is_resumed_and_not_tracked(
    compose, finished_run, tiny_dir, tmp_path
):
    """SIGTERM in step 1, in process: saved, stopped, resumed as if nothing had been."""
    import signal

    from transformers import TrainerCallback

    from train import run as module

    stopped, whole = tmp_path / "stopped", finished_run("sft", "evaluation=none")

    class Terminate(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    original = module.build_callbacks
    module.build_callbacks = lambda *parts: [*original(*parts), Terminate()]
    words = small("sft", tiny_dir, stopped, "evaluation=none")
    try:
        with pytest.raises(SystemExit) as ended:
            run(prepare(compose("sft", *words)))
    finally:
        module.build_callbacks = original
    assert ended.value.code == 143
    assert [path.name for path in checkpoints(stopped)] == ["checkpoint-1"]
    assert not (stopped / "finished.json").exists()
    run(prepare(compose("sft", *words, "resume=auto")))
    assert [path.name for path in checkpoints(stopped)] == ["checkpoint-2", "checkpoint-4"]
    assert_same(final_state(stopped), final_state(whole))
    assert [record.step for record in read_records(stopped)] == [0, 2, 4]
    assert read_record(stopped, 1) is None

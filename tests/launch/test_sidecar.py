"""A process beside the trainer: the records of tracking inline, none twice, none lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from analysis.live.manifest import MANIFEST
from analysis.records.record_files import read_records
from launch.sidecar import Options, act
from tests.support.places import ROOT
from tests.support.runs import assert_equal_records, small
from tests.support.warm import pid_of, warm_python
from train.run import prepare, run


def sidecar(directory: Path, *more: str) -> subprocess.Popen[str]:
    command = [warm_python(), "-m", "launch", "sidecar", f"run={directory}", "device=cpu"]
    return subprocess.Popen(
        [*command, "poll=0.2", "threads=1", *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("peft", [pytest.param("none", marks=pytest.mark.slow), "lora"])
def test_afterwards_its_records_are_those_of_tracking_inline(compose, tiny_dir, tmp_path, peft):
    inline, beside = tmp_path / "inline", tmp_path / "beside"
    more = ["evaluation=none", f"peft={peft}", "tracking.schedule=[0,1,2]"]
    run(prepare(compose("sft", *small("sft", tiny_dir, inline, *more))))
    where = ["tracking.where=sidecar"]
    run(prepare(compose("sft", *small("sft", tiny_dir, beside, *more, *where))))
    assert not (beside / "heads").exists()
    # step 1 was saved for the schedule's sake, step 4 is the last
    assert {p.name for p in beside.glob("checkpoint-*")} == {f"checkpoint-{s}" for s in (1, 2, 4)}
    act(Options(run=str(beside), device="cpu"))
    assert [record.step for record in read_records(beside)] == [0, 1, 2, 4]
    assert_equal_records(beside, inline)
    assert (beside / "report.html").exists()


@pytest.mark.distributed
def test_two_beside_the_training_share_its_checkpoints(tiny_dir, tmp_path):
    """Started before the run exists; W&B gets each step once, whoever was there to give it."""
    directory = tmp_path / "r"
    children = [sidecar(directory), sidecar(directory)]
    said = [child.stdout.readline().strip() for child in children]
    assert said == [f"waiting for {directory} to begin"] * 2
    more = ["tracking.where=sidecar", "evaluation=none", "logger=wandb", "train.args.save_steps=1"]
    trainer = [warm_python(), "-m", "train.sft", *small("sft", tiny_dir, directory, *more)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(trainer, env=environment, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    done = re.findall("^(step [0-9]+): [^ ]+$", "\n".join(outputs), re.MULTILINE)
    assert sorted(done) == [f"step {step}" for step in range(5)]
    published = json.loads((directory / "wandb-published.json").read_text())["offline"]
    heads = sorted(name for name in published if name.startswith("heads/"))
    assert heads == [f"heads/{step}" for step in range(5)]
    ids = {path.stem for path in directory.glob("wandb/offline-run-*/*.wandb")}
    assert len(ids) == 1  # one W&B run, however many processes wrote to it
    shown = json.loads((directory / "trajectory.json").read_text())["checkpoints"]
    assert [point["step"] for point in shown] == list(range(5))


@pytest.mark.distributed
def test_killed_while_it_tracks_another_takes_over(compose, tiny_dir, tmp_path):
    directory = tmp_path / "r"
    more = ["tracking.where=sidecar", "evaluation=none", "tracking.resamples=3000"]
    run(prepare(compose("sft", *small("sft", tiny_dir, directory, *more))))
    child = sidecar(directory)
    claim = directory / "locks" / "step-000000"
    while child.poll() is None and not claim.exists():
        time.sleep(0.01)
    os.kill(pid_of(child), signal.SIGKILL)
    child.communicate()
    assert claim.exists()
    act(Options(run=str(directory), device="cpu"))
    assert [record.step for record in read_records(directory)] == [0, 2, 4]


def test_half_written_checkpoints_are_left_alone(compose, tiny_dir, tmp_path, caplog):
    directory = tmp_path / "r"
    more = ["tracking.where=sidecar", "evaluation=none"]
    run(prepare(compose("sft", *small("sft", tiny_dir, directory, *more))))
    (directory / "checkpoint-2" / MANIFEST).unlink()
    act(Options(run=str(directory), device="cpu", wait=False))
    assert [record.step for record in read_records(directory)] == [0, 4]
    assert "checkpoint-2 is incomplete (its saving was interrupted)" in caplog.text


def test_mistakes_are_named(compose, tiny_dir, tmp_path):
    with pytest.raises(ValueError, match="there is no run .* whose training has begun"):
        act(Options(run=str(tmp_path / "none"), wait=False))
    directory = tmp_path / "r"
    run(prepare(compose("sft", *small("sft", tiny_dir, directory, "tracking=none"))))
    with pytest.raises(ValueError, match="trained with tracking=none; use headlab track"):
        act(Options(run=str(directory), wait=False))

"""Whatever stops a run, at whatever moment: resumed, it is the run that nothing stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from analysis.live.manifest import MANIFEST
from analysis.records.record_files import read_record, read_records
from tests.support.places import ROOT
from tests.support.runs import assert_equal_records, small
from tests.support.warm import pid_of, warm_python
from train.checkpoints import checkpoints, is_interrupted
from train.run import prepare, run

STEPS = 12
LONG = [f"train.args.max_steps={STEPS}", "evaluation=none", "tracking.resamples=400"]
Moment = Callable[[Path], bool]


def begin(
    arguments: list[str], kind: str = "sft", launch: bool = False, cold: bool = False
) -> subprocess.Popen[bytes]:
    module = ["launch", f"train={kind}"] if launch else [f"train.{kind}"]
    return subprocess.Popen(
        [sys.executable if cold else warm_python(), "-m", *module, *arguments, "resume=auto"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def newest(directory: Path) -> Path:
    found = checkpoints(directory)
    return found[-1] if found else directory / "checkpoint-0"


def saving(directory: Path) -> bool:
    """A checkpoint directory is there and not yet declared complete."""
    last = newest(directory)
    return last.exists() and not (last / MANIFEST).exists()


def attribution(directory: Path) -> bool:
    """The newest checkpoint is complete and its record is not begun."""
    last = newest(directory)
    step = int(last.name.split("-")[1])
    return (last / MANIFEST).exists() and not (directory / f"heads/step-{step:06d}").exists()


def record_writing(directory: Path) -> bool:
    """A record's directory is there and its record.json is not."""
    return any(not (path / "record.json").exists() for path in directory.glob("heads/step-*"))


def any_time(directory: Path) -> bool:
    return (directory / "config.yaml").exists()


def stop_at(
    child: subprocess.Popen[bytes], directory: Path, moment: Moment, delay: float, number: int
) -> bool:
    """Send a signal once the moment has come and the delay has passed; False if it ended before."""
    before = newest(directory).name
    while child.poll() is None:
        if moment(directory) and (moment is any_time or newest(directory).name != before):
            break
        time.sleep(0.0005)
    time.sleep(delay)
    if child.poll() is not None:
        return False
    try:
        os.kill(pid_of(child), number)
    except ProcessLookupError:  # it ended at this moment
        return False
    child.wait(timeout=120)
    return True


def assert_equal_runs(broken: Path, whole: Path) -> None:
    assert_equal_records(broken, whole, exact=True)
    for record in read_records(broken):
        strength = read_record(whole, record.step).resampled.strength
        assert torch.equal(record.resampled.strength, strength)
    names = [path.name for path in checkpoints(whole)]
    assert [path.name for path in checkpoints(broken)] == names
    assert not any(is_interrupted(path) for path in checkpoints(broken))
    for name in names:
        a, b = (load_file(d / name / "model.safetensors") for d in (broken, whole))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    for file in ("optimizer.pt", "scheduler.pt"):
        a, b = ((d / names[-1] / file) for d in (broken, whole))
        assert str(torch.load(a)) == str(torch.load(b)), file


def survive(
    arguments: Callable[[Path], list[str]],
    home: Path,
    stops: list[tuple[Moment, float, int]],
    kind: str = "sft",
) -> int:
    """Start, stop, start again, ... to the end; the number of stops that hit the running run."""
    broken = home / "broken"
    hits = 0
    for moment, delay, number in stops:
        child = begin(arguments(broken), kind)
        hit = stop_at(child, broken, moment, delay, number)
        if number == signal.SIGTERM and child.returncode == 0:
            hit = False  # asked for after the last step, it changes nothing
            assert (broken / "finished.json").exists()
        hits += hit
        error = child.stderr.read().decode() if child.stderr else ""
        if not hit:
            assert child.returncode == 0, error[-2000:]
            break
        expected = (-number, 128 + number)
        assert child.returncode in expected, error[-2000:]
    last = begin(arguments(broken), kind)
    error = last.communicate(timeout=240)[1].decode()
    assert last.returncode == 0, error[-2000:]
    return hits


@pytest.mark.distributed
@pytest.mark.parametrize("where", ["inline", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_five_stops_leave_no_trace(compose, tiny_dir, tmp_path, where):
    def arguments(directory: Path) -> list[str]:
        return small("sft", tiny_dir, directory, *LONG, f"tracking.where={where}")

    run(prepare(compose("sft", *arguments(tmp_path / "whole"))))
    draw = random.Random()
    stops = [
        (saving, draw.uniform(0, 0.02), signal.SIGKILL),
        (attribution, draw.uniform(0, 0.2), signal.SIGKILL),
        (record_writing, 0.0, signal.SIGKILL),
        (any_time, draw.uniform(0, 2), signal.SIGTERM),
        (any_time, draw.uniform(0, 2), signal.SIGKILL),
    ]
    assert survive(arguments, tmp_path, stops) == len(stops)
    assert_equal_runs(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.distributed
def test_one_rank_that_is_killed_ends_the_run_which_goes_on(tiny_dir, tmp_path):
    def arguments(directory: Path) -> list[str]:
        size = ["resources.processes=2", "resources.gpus=0", "deepspeed=zero2"]
        return small("sft", tiny_dir, directory, "evaluation=none", *size)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert begin(arguments(whole), launch=True).wait(timeout=240) == 0
    child = begin(arguments(broken), launch=True, cold=True)
    while child.poll() is None and not (broken / "checkpoint-2" / MANIFEST).exists():
        time.sleep(0.001)
    family = psutil.Process(child.pid).children(recursive=True)
    ranks = [p for p in family if p.environ().get("RANK") == "1"]
    assert len(ranks) == 1
    ranks[0].kill()
    assert child.wait(timeout=120) != 0
    psutil.wait_procs(family, timeout=30)
    assert not any(process.is_running() for process in family)  # none is left behind
    assert not (broken / "checkpoint-4" / MANIFEST).exists()
    assert begin(arguments(broken), launch=True).wait(timeout=240) == 0
    assert_equal_records(broken, whole, exact=True)
    a, b = (load_file(d / "checkpoint-4" / "model.safetensors") for d in (broken, whole))
    assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_twenty_stops_leave_no_trace(compose, tiny_dir, tmp_path, kind):
    """At random moments, by SIGKILL or SIGTERM; as many runs as it takes."""
    draw = random.Random()
    hits = round = 0
    while hits < 20:
        round += 1
        home = tmp_path / str(round)

        def arguments(directory: Path, seed: int = round) -> list[str]:
            return small(
                kind, tiny_dir, directory, *LONG, f"seed={seed}", "train.args.max_steps=40"
            )

        run(prepare(compose(kind, *arguments(home / "whole"))))
        moments = [saving, attribution, record_writing, any_time, any_time, any_time]
        stops = [
            (
                draw.choice(moments),
                draw.uniform(0, 3),
                draw.choice([signal.SIGKILL, signal.SIGTERM]),
            )
            for _ in range(10)
        ]
        hits += survive(arguments, home, stops, kind)
        assert_equal_runs(home / "broken", home / "whole")
    print(f"{hits} stops in {round} runs")

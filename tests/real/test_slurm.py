"""A real Slurm: stops that keep the checkpoint, nodes that meet, jobs that go on as one run."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.records.locks import Lock
from analysis.records.record_files import read_records
from analysis.records.training_log import read_metrics
from tests.real.slurm import Cluster
from tests.support.launches import SMALL
from tests.support.places import ROOT
from train.checkpoints import is_complete, step_of
from train.program import program

pytestmark = pytest.mark.real

STEPS = 120
# logged at each step, with W&B and with workers, on problems for one epoch
LONG = [
    *SMALL,
    "logger=wandb",
    "data.size=1200",
    "train.args.dataloader_num_workers=2",
    f"train.args.max_steps={STEPS}",
    f"train.args.save_steps={STEPS}",
]


@dataclass
class Job:
    """A run in the queue."""

    cluster: Cluster
    run: Path
    number: str

    def output(self) -> str:
        file = self.run / f"slurm-{self.number}.out"
        return file.read_text() if file.exists() else ""

    def wait(self, condition: Callable[[], object], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.state(), self.output())
            time.sleep(0.2)

    def state(self) -> str:
        return self.cluster.state(self.number)

    def wait_for_steps(self) -> None:
        """Until it trains: its steps are logged."""
        self.wait(lambda: (self.run / "metrics.jsonl").exists() or self.state() == "FAILED")

    def stopped_at(self) -> int:
        """The step of its only checkpoint, which is complete."""
        found = [path for path in self.run.glob("checkpoint-*") if is_complete(path)]
        assert len(found) == 1, self.output()
        return step_of(found[0])

    def go_on_to_the_end(self) -> None:
        """Once it is in the queue again: let it start, and wait until it has finished."""
        self.wait(lambda: self.cluster.restarts(self.number) == 1 and self.state() == "PENDING")
        self.cluster.start_now(self.number)
        self.wait(lambda: self.state() in ("COMPLETED", "FAILED"))
        assert self.state() == "COMPLETED", self.output()


Start = Callable[..., Job]


def headlab(directory: Path, variables: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        program(*words),
        cwd=directory,
        env={**variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Start:
    """start(WORD, ...): `headlab launch resources=slurm` with some words."""

    def started(*words: str) -> Job:
        queue = ["resources=slurm", "resources.cpus=1", "name=mine"]
        headlab(tmp_path, cluster.variables, "launch", *words, *queue)
        run = tmp_path / "runs" / "mine"
        return Job(cluster, run, (run / "slurm-job").read_text())

    return started


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing stops, without a queue."""
    place = tmp_path_factory.mktemp("unbroken")
    headlab(place, dict(os.environ), "launch", *LONG, "logger=none", "name=mine")
    return place / "runs" / "mine"


def assert_ends_as(run: Path, unbroken: Path) -> None:
    """Weights, records and logged steps of two runs are the same."""
    name = f"checkpoint-{STEPS}/model.safetensors"
    found, wanted = load_file(run / name), load_file(unbroken / name)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert [path.name for path in run.glob("checkpoint-*")] == [f"checkpoint-{STEPS}"]
    records = zip(read_records(run), read_records(unbroken), strict=True)
    assert all(a.step == b.step and torch.equal(a.mean, b.mean) for a, b in records)
    assert set(read_metrics(run)) == set(read_metrics(unbroken)) == set(range(1, STEPS + 1))


def test_time_that_is_nearly_up(start: Start, unbroken: Path) -> None:
    """The script is told; the run saves, goes into the queue again, and ends as if unbroken."""
    job = start(*LONG)
    job.wait_for_steps()
    job.cluster.ask("scancel", "--batch", "--signal=USR1", job.number)
    job.wait(lambda: "is stopped; resume=auto goes on with it" in job.output())
    assert 0 < job.stopped_at() < STEPS
    job.go_on_to_the_end()
    assert_ends_as(job.run, unbroken)
    assert "Traceback" not in job.output()


def test_a_signal_to_every_process_keeps_the_checkpoint(start: Start) -> None:
    """A user's scancel --signal=TERM: W&B and the workers get it too; the job ends."""
    job = start(*LONG)
    job.wait_for_steps()
    job.cluster.ask("scancel", "--signal=TERM", job.number)
    job.wait(lambda: job.state() not in ("RUNNING", "COMPLETING"))
    assert job.stopped_at() == max(read_metrics(job.run)) < STEPS
    assert job.state() == "FAILED"
    assert job.cluster.restarts(job.number) == 0


def test_a_preempted_job_is_queued_again_and_ends_as_if_unbroken(
    start: Start, unbroken: Path
) -> None:
    job = start(*LONG)
    job.wait_for_steps()
    words = ["--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null"]
    other = job.cluster.ask("sbatch", "--parsable", *words, "--wrap=sleep 1").strip()
    job.wait(lambda: job.cluster.state(other) == "COMPLETED")
    assert 0 < job.stopped_at() < STEPS
    job.go_on_to_the_end()
    assert_ends_as(job.run, unbroken)


def test_a_job_that_is_cancelled_while_it_saves_stays_cancelled(start: Start) -> None:
    job = start(*LONG)
    job.wait_for_steps()
    job.cluster.ask("scancel", "--batch", "--signal=USR1", job.number)
    job.cluster.ask("scancel", job.number)
    job.wait(lambda: job.state() not in ("RUNNING", "COMPLETING"))
    time.sleep(2)  # for a requeue that is not to come
    assert job.state() == "CANCELLED"


def test_the_processes_of_two_nodes_meet_at_the_first(start: Start) -> None:
    job = start(*SMALL, "resources.nodes=2", "resources.processes=1")
    job.wait(lambda: job.state() in ("COMPLETED", "FAILED"))
    assert is_complete(job.run / "checkpoint-4"), job.output()
    assert (job.run / "checkpoint-4" / "rng_state_1.pth").exists()
    assert [record.step for record in read_records(job.run)] == [0, 2, 4]


def test_a_job_waits_for_a_lock_that_another_host_has_just_touched(
    start: Start, tmp_path: Path
) -> None:
    """That of a node that failed, as far as anybody can tell."""
    job = start(*SMALL, "tracking=none", "resources.sbatch=[--hold]")
    lock = Lock.take(job.run / "locks" / "run", "r")
    lock.path.write_text(lock.path.read_text().replace(lock.holder.host, "elsewhere"))
    job.cluster.ask("scontrol", "release", job.number)
    job.wait(lambda: "; waiting for it to end" in job.output() or job.state() == "FAILED")
    assert "is in use by process" in job.output()
    lock.release()
    job.wait(lambda: job.state() in ("COMPLETED", "FAILED"))
    assert job.state() == "COMPLETED", job.output()


def test_a_run_that_a_job_holds_is_refused_with_the_job(start: Start, tmp_path: Path) -> None:
    longer = [*LONG, "train.args.max_steps=100000", "train.args.save_steps=100000"]
    job = start(*longer)
    job.wait_for_steps()
    done = subprocess.run(
        program("launch", *longer, "name=mine", "resume=auto"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    job.cluster.ask("scancel", job.number)
    assert done.returncode == 2
    assert f"is in use by job {job.number} (process " in done.stderr

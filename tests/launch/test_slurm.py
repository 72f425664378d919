"""Slurm: the script and its quoting, what is refused, jobs that are stopped and go on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.records.record import read_records
from analysis.records.training_log import read_metrics
from analysis.reporting.wandb_mirror import run_id
from launch.preflight import preflight
from launch.slurm import render
from tests.support.launches import SMALL, is_over, variables, wait_for
from tests.support.slurm_fakes import JOB
from train.checkpoints import is_complete
from train.program import program


def test_a_run_that_is_queued_is_refused_with_its_job(launch, fakes):
    run = launch.directory / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "slurm-job").write_text(JOB)
    (fakes / "job").write_text(str(os.getpid()))
    done = launch(*SMALL, "name=mine", "resume=auto")
    assert done.returncode == 2
    assert f"error: the run runs/mine is in the queue as job {JOB}" in done.stderr


def test_a_dry_run_prints_the_script_and_writes_nothing(launch):
    queue = ["resources=slurm", "resources.nodes=2", "resources.gpus=8", "resources.time=12:00:00"]
    more = ["deepspeed=zero3", "resources.dry_run=true", 'resources.sbatch=["--mem=0"]']
    done = launch(*SMALL[:-1], *queue, *more, 'resources.setup=["module load cuda"]', "name=mine")
    assert done.returncode == 0, done.stderr
    assert not (launch.directory / "runs").exists()
    assert "planted-secret" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for option in ("nodes=2", "gpus-per-node=8", "time=12:00:00", "signal=B:USR1@120", "mem=0"):
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --requeue" in lines
    assert lines.index("module load cuda") < next(
        i for i, line in enumerate(lines) if "srun" in line
    )
    parsed = subprocess.run(["bash", "-n"], input=done.stdout, text=True, capture_output=True)
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_without_slurm_a_submission_says_so(compose, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    cfg = compose("sft", "resources=slurm", "resources.gpus=8", f"run_dir={tmp_path}/r")
    with pytest.raises(ValueError, match="there is no sbatch on this machine"):
        preflight(cfg)


def test_what_sbatch_refuses_is_an_error(launch):
    queue = ["resources=slurm", "resources.gpus=0", "resources.partition=nosuch"]
    done = launch(*SMALL, *queue)
    assert done.returncode == 2
    assert "invalid partition specified: nosuch" in done.stderr


def run_script(script: str, fakes: Path, directory: Path) -> subprocess.Popen[str]:
    job = {"SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    return subprocess.Popen(
        ["bash", "-c", script],
        cwd=directory,
        env={**variables(fakes), **job},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_words_of_a_script_survive_its_quoting(compose, fakes, tmp_path, monkeypatch):
    """Names with blanks, quotes and dollars, in the directory, the run and the environment."""
    directory = tmp_path / "it's $HOME"
    directory.mkdir()
    monkeypatch.chdir(directory)
    name = "a 'b' $c=$d"
    resources = ["resources=slurm", "resources.gpus=0", "resources.nodes=2"]
    cfg = compose("sft", *resources)
    cfg.name = name
    script = render(cfg, Path(cfg.run_dir) / "launch.yaml", {"HF_HOME": "/h f$x"})
    python = tmp_path / "slurm's bin" / "python"
    python.write_text('#!/bin/bash\npwd\necho "$HF_HOME $OMP_NUM_THREADS"\nexit 5\n')
    python.chmod(0o755)
    job = run_script(script.replace(sys.executable, shlex.quote(str(python))), fakes, tmp_path)
    output, _ = job.communicate(timeout=20)
    assert job.returncode == 5
    words = (fakes / "words").read_text().splitlines()
    meeting = [f"--rdzv-endpoint=localhost:{10000 + int(JOB)}", f"--rdzv-id={JOB}"]
    assert words[1:] == [
        *program("launch.torchrun", "--nnodes=2", "--rdzv-backend=c10d", *meeting)[1:],
        *("--nproc-per-node=1", "--no-python", str(python)),
        *program("train.run", f"{directory}/runs/{name}/launch.yaml")[1:],
    ]
    assert sorted(output.splitlines()) == sorted([str(directory), "/h f$x 1"] * 2)


@pytest.mark.parametrize(
    ("number", "asked"),
    [
        (signal.SIGUSR1, [f"scancel --signal=TERM {JOB}", f"scontrol requeue {JOB}"]),
        (signal.SIGTERM, []),
    ],
)
def test_a_job_that_is_told_to_stop_lets_its_run_save(compose, fakes, tmp_path, number, asked):
    """Before its time is up (USR1) it is queued again; where it was cancelled (TERM) it is not."""
    cfg = compose("sft", "resources=slurm", "resources.gpus=0", f"run_dir={tmp_path}/r")
    python = fakes / "python"
    saving = "trap 'sleep 0.5; echo saved; exit 143' TERM"
    python.write_text(f"#!/bin/bash\n{saving}\necho ready\nwhile :; do sleep 0.05; done\n")
    python.chmod(0o755)
    script = render(cfg, tmp_path / "r" / "launch.yaml").replace(
        sys.executable, shlex.quote(str(python))
    )
    job = run_script(script, fakes, tmp_path)
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    job.send_signal(number)
    if number == signal.SIGTERM:  # of a cancelled job Slurm tells the step itself
        for pid in (fakes / "step").read_text().split():
            os.kill(int(pid), signal.SIGTERM)
    output, _ = job.communicate(timeout=20)
    assert job.returncode == 143
    assert "saved" in output
    found = fakes / "asked"
    assert (found.read_text().splitlines() if found.exists() else []) == asked


@pytest.mark.distributed
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_trains_and_tracks(launch, fakes, nodes):
    """Through sbatch, srun and torchrun; with two nodes their processes meet at the first."""
    queue = ["resources=slurm", f"resources.nodes={nodes}", "resources.processes=1"]
    done = launch(*SMALL, *queue, "name=mine")
    assert done.returncode == 0, done.stderr
    assert f"job {JOB} is in the queue: runs/mine" in done.stdout
    run = launch.directory / "runs" / "mine"
    assert (run / "slurm-job").read_text() == JOB
    again = launch(*SMALL, *queue, "name=mine")
    assert again.returncode == 2
    assert f"is in the queue as job {JOB}" in again.stderr
    wait_for(lambda: is_over(int((fakes / "job").read_text())))
    output = (run / f"slurm-{JOB}.out").read_text()
    assert is_complete(run / "checkpoint-4"), output
    assert [record.step for record in read_records(run)] == [0, 2, 4]
    assert "resume: auto" in (run / "launch.yaml").read_text()
    assert (run / "checkpoint-4" / f"rng_state_{nodes - 1}.pth").exists() == (nodes == 2)
    assert run_id(run, "other").startswith("mine-")
    for path in run.rglob("*"):
        assert not path.is_file() or b"planted-secret" not in path.read_bytes()


@pytest.mark.distributed
def test_a_job_whose_time_is_up_goes_on_when_it_starts_again(launch, fakes):
    """Slurm's USR1 to the script: the run saves, the job is queued again, and its run finishes."""
    long = ["tracking=none", "train.args.max_steps=300", "train.args.save_steps=300"]
    done = launch(*SMALL, *long, "resources=slurm", "resources.processes=1", "name=mine")
    assert done.returncode == 0, done.stderr
    run = launch.directory / "runs" / "mine"
    batch = int((fakes / "job").read_text())
    wait_for(lambda: (run / "metrics.jsonl").exists() or is_over(batch))
    os.kill(batch, signal.SIGUSR1)
    wait_for(lambda: is_over(batch))
    asked = (fakes / "asked").read_text().splitlines()
    assert asked == [f"scancel --signal=TERM {JOB}", f"scontrol requeue {JOB}"]
    stopped = [path for path in run.glob("checkpoint-*") if is_complete(path)]
    assert len(stopped) == 1
    assert stopped[0].name != "checkpoint-300"
    before = set(read_metrics(run))

    subprocess.run(
        [fakes / "sbatch", "--parsable", run / "slurm.sh"], env=variables(fakes), check=True
    )
    wait_for(lambda: is_over(int((fakes / "job").read_text())))
    assert is_complete(run / "checkpoint-300"), (run / f"slurm-{JOB}.out").read_text()
    assert before < set(read_metrics(run)) >= set(range(1, 301))

"""Slurm: the script and its quoting, what is refused, jobs that are stopped and go on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from analysis.records.record_files import read_records
from analysis.records.training_log import read_metrics
from analysis.reporting.wandb_mirror import run_id
from launch.preflight import preflight
from launch.slurm import check_job, render
from tests.support.launches import SMALL, is_over, variables, wait_for
from tests.support.slurm_fakes import JOB
from train.checkpoints import is_complete, step_of
from train.config import check
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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a\ntouch owned"),
        ("name", "a\rb"),
        ("run_dir", "runs/a\nb"),
        ("resources.time", "1:00:00\ntouch owned"),
        ("resources.partition", "gpu\x00"),
        ("resources.account", "lab\u2028x"),
        ("resources.sbatch", ["--mem=0", "--comment=a\n#SBATCH --wrap=b"]),
    ],
)
def test_text_that_would_become_script_is_refused_by_its_key(compose, key, value):
    cfg = compose("sft", "resources=slurm", "resources.gpus=0")
    OmegaConf.update(cfg, key, value)
    with pytest.raises(ValueError, match=f"{key} is .*may hold no line break"):
        check(cfg)


def test_a_directory_with_a_line_break_is_refused_for_a_job(compose, tmp_path):
    cfg = compose("sft", "resources=slurm", "resources.gpus=0")
    with pytest.raises(ValueError, match="the path of run_dir is .*may hold no line break"):
        check_job(cfg, tmp_path / "a\nb")


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["resources.time=2"], True),
        (["resources.time='2:00'"], True),
        (["resources.time='0:01:30'"], True),
        (["resources.time='0-00:02'"], True),
        (['resources.sbatch=["--time=1"]'], True),
        (['resources.sbatch=["-t","2"]'], True),
        (["resources.time=3"], False),
        (["resources.time=1-0"], False),
        (["resources.time=0"], False),
        (["resources.time=UNLIMITED"], False),
        (['resources.sbatch=["--mem=1"]'], False),
    ],
)
def test_a_time_limit_that_leaves_none_is_refused(compose, tmp_path, words, refused):
    cfg = compose("sft", "resources=slurm", "resources.gpus=0", *words)
    if refused:
        with pytest.raises(ValueError, match="the time limit of the job is .*never take a step"):
            check_job(cfg, tmp_path)
    else:
        check_job(cfg, tmp_path)


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


def run_script(script: str, fakes: Path, directory: Path, **more: str) -> subprocess.Popen[str]:
    job = {"SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    return subprocess.Popen(
        ["bash", "-c", script],
        cwd=directory,
        env={**variables(fakes), **job, **more},
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


RUNNING, PREEMPTED, CANCELLED = (
    f"JobId={JOB} JobState=RUNNING Reason=None PreemptTime=None",
    f"JobId={JOB} JobState=RUNNING Reason=None PreemptTime=2026-01-01T00:00:00",
    f"JobId={JOB} JobState=COMPLETING Reason=None PreemptTime=None",
)
REQUEUED = [f"scontrol requeue {JOB}"]


@pytest.mark.parametrize(
    ("number", "state", "starts", "saves", "status", "asked"),
    [
        (signal.SIGUSR1, RUNNING, "0", True, 143, REQUEUED),  # time is nearly up
        (signal.SIGUSR1, RUNNING, "0", False, 143, REQUEUED),  # the first start may take long
        (signal.SIGUSR1, RUNNING, "1", True, 143, REQUEUED),
        (signal.SIGUSR1, RUNNING, "1", False, 143, []),  # nothing comes of starting again
        (signal.SIGUSR1, CANCELLED, "0", True, 143, []),  # cancelled while it saved
        (signal.SIGUSR1, RUNNING, "0", True, 0, []),  # it was done in time
        (signal.SIGTERM, CANCELLED, "0", True, 143, []),
        (signal.SIGTERM, RUNNING, "0", True, 143, []),  # a user's scancel --signal=TERM --full
        (signal.SIGTERM, PREEMPTED, "3", False, 143, REQUEUED),
        (None, PREEMPTED, "0", True, 143, REQUEUED),  # Slurm tells the step alone
        (None, RUNNING, "0", True, 143, []),  # a user's scancel --signal=TERM
    ],
)
def test_a_job_that_is_told_to_stop(
    compose, fakes, tmp_path, number, state, starts, saves, status, asked
):
    """Its run saves; it is queued again where that leads on, and only there."""
    run = tmp_path / "it's $r"
    old = run / "checkpoint-1" / "headlab.json"
    old.parent.mkdir(parents=True)
    old.touch()
    (run / "stop-7-0").touch()  # of an earlier job, and not meant for this one
    cfg = compose("sft", "resources=slurm", "resources.gpus=0")
    python = fakes / "python"
    new = run / "checkpoint-2"
    saving = f"mkdir {shlex.quote(str(new))}; touch {shlex.quote(str(new))}/headlab.json"
    ending = f"{saving if saves else ':'}; exit {status}"
    python.write_text(
        f"#!/bin/bash\ntrap {shlex.quote(ending)} TERM\necho ready\n"
        f'while [ ! -e "$HEADLAB_STOP" ]; do sleep 0.02; done\n{ending}\n'
    )
    python.chmod(0o755)
    script = render(cfg, run / "launch.yaml").replace(sys.executable, shlex.quote(str(python)))
    (fakes / "state").write_text(state)
    job = run_script(script, fakes, tmp_path, SLURM_RESTART_COUNT=starts)
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    if number != signal.SIGUSR1:  # Slurm tells the step
        subprocess.run([fakes / "scancel", "--signal=TERM", JOB], check=True)
    if number is not None:
        job.send_signal(number)
    output, _ = job.communicate(timeout=20)
    assert job.returncode == status, output
    said = (fakes / "asked").read_text() if (fakes / "asked").exists() else ""
    assert [line for line in said.splitlines() if line.startswith("scontrol")] == asked
    assert ("give it more time" in output) == (starts == "1" and not saves)
    assert not list(run.glob("stop-*"))


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
    # by now the job may have begun
    assert re.search(f"is in (the queue as|use by) job {JOB}", again.stderr), again.stderr
    wait_for(lambda: is_over(int((fakes / "job").read_text())))
    output = (run / f"slurm-{JOB}.out").read_text()
    assert is_complete(run / "checkpoint-4"), output
    assert [record.step for record in read_records(run)] == [0, 2, 4]
    assert "resume: auto" in (run / "launch.yaml").read_text()
    assert (run / "checkpoint-4" / f"rng_state_{nodes - 1}.pth").exists() == (nodes == 2)
    assert run_id(run, "other").startswith("mine-")
    for path in run.rglob("*"):
        assert not path.is_file() or b"planted-secret" not in path.read_bytes()


SHOWN = ["logger=wandb", "train.args.dataloader_num_workers=2", "tracking=none", "data.size=1200"]


@pytest.mark.distributed
def test_a_signal_to_every_process_of_a_job_loses_no_checkpoint(launch, fakes):
    """On a step that is logged, with W&B, which ends on it, and with workers."""
    long = ["train.args.max_steps=3000", "train.args.save_steps=3000"]
    done = launch(*SMALL, *SHOWN, *long, "resources=slurm", "name=mine")
    assert done.returncode == 0, done.stderr
    run = launch.directory / "runs" / "mine"
    batch = int((fakes / "job").read_text())
    wait_for(lambda: (run / "metrics.jsonl").exists() or is_over(batch))
    subprocess.run([fakes / "scancel", "--signal=TERM", JOB], check=True)
    wait_for(lambda: is_over(batch))
    output = (run / f"slurm-{JOB}.out").read_text()
    stopped = [path for path in run.glob("checkpoint-*") if is_complete(path)]
    assert len(stopped) == 1, output
    assert step_of(stopped[0]) == max(read_metrics(run)) < 3000


@pytest.mark.distributed
def test_a_job_whose_time_is_up_goes_on_when_it_starts_again(launch, fakes):
    """Slurm's USR1 to the script: the run saves, the job is queued again, and its run finishes."""
    long = ["train.args.max_steps=300", "train.args.save_steps=300"]
    done = launch(*SMALL, *SHOWN, *long, "resources=slurm", "name=mine")
    assert done.returncode == 0, done.stderr
    run = launch.directory / "runs" / "mine"
    batch = int((fakes / "job").read_text())
    wait_for(lambda: (run / "metrics.jsonl").exists() or is_over(batch))
    os.kill(batch, signal.SIGUSR1)
    wait_for(lambda: is_over(batch))
    asked = (fakes / "asked").read_text().splitlines()
    assert asked == REQUEUED
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

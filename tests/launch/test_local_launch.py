"""Runs of one machine: processes and their signals, and a second start of a run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.records.locks import Lock
from launch.local import devices, local_command
from launch.processes import Node, environment, node_of
from tests.support.launches import SMALL, is_over, processes_in, variables, wait_for
from train.checkpoints import is_complete
from train.config import check
from train.program import program


@pytest.mark.parametrize(
    ("overrides", "visible", "node"),
    [
        ([], 0, Node(0, 1)),
        ([], 8, Node(8, 8)),
        (["resources.gpus=2"], 8, Node(2, 2)),
        (["resources.gpus=0"], 8, Node(0, 1)),
        (["resources.gpus=0", "resources.processes=2"], 8, Node(0, 2)),
        (["resources.processes=2"], 0, Node(0, 2)),
        (["resources.processes=1"], 8, Node(1, 1)),  # the demo on a large machine
    ],
)
def test_a_process_for_each_gpu(compose, overrides, visible, node):
    assert node_of(compose("sft", *overrides).resources, visible) == node


def test_the_command_of_a_machine(compose):
    file = Path("r/launch.yaml")
    alone = local_command(compose("sft"), Node(1, 1), file)
    assert alone == program("train.run", "r/launch.yaml")
    several = local_command(compose("sft"), Node(2, 2), file)
    torchrun = program("launch.torchrun", "--standalone", "--nproc-per-node=2", "--no-python")
    assert several == [*torchrun, *alone]
    with_port = local_command(compose("sft", "resources.port=29501"), Node(2, 2), file)
    assert "--rdzv-endpoint=localhost:29501" in with_port
    sharded = local_command(compose("sft", "deepspeed=zero2"), Node(1, 1), file)
    assert "--nproc-per-node=1" in sharded  # DeepSpeed wants a process group


def test_the_environment_of_processes(compose):
    plain = compose("sft")
    assert environment(plain, Node(8, 8), {})["OMP_NUM_THREADS"] == "1"
    assert environment(plain, Node(8, 8), {"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"
    threads = compose("sft", "resources.threads=3")
    assert environment(threads, Node(1, 1), {"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in environment(plain, Node(1, 1), {})
    assert environment(plain, Node(0, 1), {})["CUDA_VISIBLE_DEVICES"] == ""
    assert devices(Node(2, 2), None) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert devices(Node(2, 2), "5,3,1") == {"CUDA_VISIBLE_DEVICES": "5,3"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resources.nodes=2"], "resources=local is one machine"),
        (["resources=slurm"], "resources=slurm needs resources.gpus"),
        (["resources.gpus=2", "resources.processes=3"], "each process uses one GPU"),
        (["resources.processes=0"], "resources.processes must be at least 1, not 0"),
        (["resources.kind=cloud"], "resources.kind is 'cloud'; choose one of: local, slurm"),
    ],
)
def test_resources_that_do_not_go_together(compose, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(compose("sft", f"run_dir={tmp_path}/r", *overrides))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_child_whose_status_counts(tmp_path, number):
    child = f"trap 'exit 7' {number.name[3:]}; echo $$; while :; do sleep 0.05; done"
    code = (
        "import os, signal, sys; from launch.local import run_forwarding\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)  # nohup and & have it ignored\n"
        "status, stopped = run_forwarding(['bash', '-c', sys.argv[1]], dict(os.environ))\n"
        "sys.exit(status + stopped)"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, child], stdout=subprocess.PIPE, text=True, env=variables()
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    launcher.send_signal(number)
    assert launcher.wait(timeout=20) == 7 + 1
    assert is_over(pid)


@pytest.mark.distributed
def test_torchrun_ends_with_the_status_and_the_message_of_the_process_that_failed(tmp_path):
    script = tmp_path / "fail.py"
    script.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1': sys.exit(print('error: of rank 1', file=sys.stderr) or 3)\n"
        "time.sleep(60)"
    )
    words = ["-m", "launch.torchrun", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *words], env=variables(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    said = ["error: of rank 1", "process 1 of the run ended with status 3"]
    assert done.stderr.splitlines() == said


@pytest.mark.distributed
def test_a_run_that_is_running_is_refused_by_its_holder(launch):
    run = launch.directory / "runs" / "mine"
    with Lock.take(run / "locks" / "run", "the run"):
        for resume in ("never", "auto"):
            done = launch(*SMALL, "name=mine", f"resume={resume}")
            assert done.returncode == 2
            assert f"error: the run runs/mine is in use by process {os.getpid()}" in done.stderr
    assert [path.name for path in run.iterdir()] == ["locks"]


@pytest.mark.distributed
def test_a_dry_run_of_a_machine_prints_the_command(launch):
    done = launch(*SMALL, "resources.processes=2", "resources.dry_run=true", "name=mine")
    assert shlex.split(done.stdout)[-1] == "runs/mine/launch.yaml"
    assert not (launch.directory / "runs").exists()


@pytest.mark.distributed
def test_a_stopped_launcher_leaves_no_process_and_a_checkpoint(launch):
    """SIGTERM to the launcher of two processes; meanwhile a second start is refused."""
    words = [*SMALL, "resources.processes=2", "name=mine", "tracking=none"]
    long = ["train.args.max_steps=4000", "train.args.save_steps=4000"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "launch", *words, *long],
        cwd=launch.directory,
        env=variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run = launch.directory / "runs" / "mine"
    wait_for(lambda: (run / "metrics.jsonl").exists() or launcher.poll() is not None)
    assert len(processes_in(launch.directory)) == 4  # launcher, torchrun, two of the run
    second = launch(*words, *long, "resume=auto")
    assert second.returncode == 2
    assert re.search(r"error: the run runs/mine is in use by process \d+ on ", second.stderr)
    launcher.send_signal(signal.SIGTERM)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGTERM, output
    assert len([path for path in run.glob("checkpoint-*") if is_complete(path)]) == 1
    assert processes_in(launch.directory) == []

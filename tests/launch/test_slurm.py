"""Starting runs: processes and their signals, Slurm's script and job, the check before, sweeps."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.records.locks import Lock
from analysis.records.record import read_records
from analysis.records.secrets import redact
from analysis.records.training_log import read_metrics
from analysis.reporting.wandb_mirror import run_id
from launch.local import devices, local_command
from launch.preflight import preflight
from launch.processes import Node, environment, node_of
from launch.slurm import render
from launch.space import checkpoint_bytes, checkpoints_kept
from tests.support.places import ROOT
from tests.support.slurm_fakes import JOB, install
from tests.support.warm import warm_python
from train.checkpoints import is_complete
from train.config import check
from train.program import program

SMALL = [
    "train=sft",
    "model=tiny_random",
    "data.size=64",
    "logger=none",
    "pairs.size=4",
    "tracking.resamples=10",
    "tracking.ig_steps=2",
    "evaluation=none",
    "train.args.max_steps=4",
    "train.args.save_steps=2",
    "train.args.logging_steps=1",
    "train.args.disable_tqdm=true",
    "train.args.per_device_train_batch_size=4",
    "resources.gpus=0",
]
Launch = Callable[..., subprocess.CompletedProcess[str]]


def variables(*first_on_path: Path) -> dict[str, str]:
    path = os.pathsep.join([*map(str, first_on_path), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "MY_API_KEY": "planted-secret"}


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    return install(tmp_path / "slurm's bin")


@pytest.fixture
def launch(tmp_path: Path, fakes: Path) -> Launch:
    """`headlab launch` in a directory whose name needs quoting, with a Slurm of one machine."""
    directory = tmp_path / "a $dir's"
    directory.mkdir()

    def launched(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm_python(), "-m", "launch", *words],
            cwd=directory,
            env=variables(fakes),
            capture_output=True,
            text=True,
        )

    launched.directory = directory  # type: ignore[attr-defined]
    return launched


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def processes_in(directory: Path) -> list[int]:
    """The processes that work in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (path / "cwd").resolve(strict=True) == directory and not is_over(int(path.name)):
                found.append(int(path.name))
    return found


# processes of a node


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


# starting a run twice


def test_a_run_that_is_running_is_refused_by_its_holder(launch):
    run = launch.directory / "runs" / "mine"
    with Lock.take(run / "locks" / "run", "the run"):
        for resume in ("never", "auto"):
            done = launch(*SMALL, "name=mine", f"resume={resume}")
            assert done.returncode == 2
            assert f"error: the run runs/mine is in use by process {os.getpid()}" in done.stderr
    assert [path.name for path in run.iterdir()] == ["locks"]


def test_a_run_that_is_queued_is_refused_with_its_job(launch, fakes):
    run = launch.directory / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "slurm-job").write_text(JOB)
    (fakes / "job").write_text(str(os.getpid()))
    done = launch(*SMALL, "name=mine", "resume=auto")
    assert done.returncode == 2
    assert f"error: the run runs/mine is in the queue as job {JOB}" in done.stderr


def test_all_who_ask_for_the_id_of_a_run_get_the_same(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: run_id(tmp_path, "my run"), range(64)))
    assert len(found) == 1
    assert re.fullmatch(r"my-run-[0-9a-f]{8}", found.pop())
    assert [path.name for path in tmp_path.iterdir()] == ["wandb-id"]


def test_a_token_of_a_tokenizer_is_no_secret():
    args = {"eos_token": "<|im_end|>", "pad_token": "x", "hub_token": "s", "push_to_hub_token": "s"}
    masked = {"hub_token": "<redacted>", "push_to_hub_token": "<redacted>"}
    assert redact({"args": args}) == {"args": args | masked}


# the check before


def test_preflight_names_everything_that_is_wrong_at_once(compose, tmp_path, monkeypatch):
    import shutil
    from importlib import metadata

    installed = metadata.version
    old = {"trl": "0.9.0"}
    monkeypatch.setattr(metadata, "version", lambda name: old.get(name) or installed(name))
    full = SimpleNamespace(free=4_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cfg = compose(
            "grpo",
            "model=tiny_random",
            "data=file",
            "data.source=jsonl:none.jsonl",
            "resources.gpus=99",
            f"resources.port={port}",
            f"run_dir={tmp_path}/r",
            "train.args.use_vllm=true",
            "train.args.max_steps=400",
        )
        with pytest.raises(ValueError, match="the pre-flight check failed") as caught:
            preflight(cfg)
    lines = str(caught.value).splitlines()[1:]
    starts = ["versions", "vllm", "devices", "port", "data", "disk"]
    assert [line.strip().partition(":")[0] for line in lines] == starts
    assert "trl>=1.0 (0.9.0)" in lines[0]
    assert "4 checkpoints of about 9.84 MB" in lines[5]
    assert not (tmp_path / "r").exists()


def test_a_directory_without_weights_or_tokenizer_is_no_model(compose, tiny_dir, tmp_path):
    cfg = compose("sft", "model=hub", f"model.path={tiny_dir}", f"run_dir={tmp_path}/r")
    preflight(cfg)
    tokenizer = {path: path.read_bytes() for path in tiny_dir.glob("tokenizer*")}
    for path in tokenizer:
        path.unlink()
    with pytest.raises(ValueError, match="has no tokenizer that can be read"):
        preflight(cfg)
    for path, content in tokenizer.items():
        path.write_bytes(content)
    (tiny_dir / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        preflight(cfg)


def test_a_model_that_is_nowhere_is_named_at_once(compose, tmp_path):
    cfg = compose("sft", "model=hub", "model.path=no/such-model", f"run_dir={tmp_path}/r")
    with pytest.raises(ValueError, match="'no/such-model' is neither a directory here nor in the"):
        preflight(cfg)


def test_a_setting_that_is_wrong_is_found_before_the_queue(launch):
    queue = ["resources=slurm", "resources.gpus=1", "name=mine"]
    done = launch(*SMALL[:-1], *queue, "train.args.learning_rat=1")
    assert done.returncode == 2
    assert "did you mean learning_rate?" in done.stderr
    assert not (launch.directory / "runs").exists()


@pytest.mark.parametrize("peft", ["none", "lora"])
def test_the_estimate_of_a_checkpoint_is_its_size(compose, tiny_dir, tmp_path, peft):
    """Against the files of a model and an AdamW that made a step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    options = [f"peft={peft}", *(["peft.args.r=16"] if peft == "lora" else [])]
    cfg = compose("sft", "model=hub", f"model.path={tiny_dir}", *options)
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    if peft == "lora":
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    model.save_pretrained(tmp_path / "checkpoint")
    torch.save(optimizer.state_dict(), tmp_path / "checkpoint" / "optimizer.pt")
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoint").iterdir())
    assert checkpoint_bytes(cfg, str(tiny_dir)) == pytest.approx(size, rel=0.1)
    if peft == "none":
        assert checkpoint_bytes(compose("sft", "model=tiny_random"), None) == pytest.approx(
            size, rel=0.1
        )


@pytest.mark.parametrize(
    ("kind", "overrides", "count"),
    [
        ("sft", ["max_steps=100", "save_steps=30"], 4),
        ("sft", ["max_steps=100", "save_steps=30", "save_total_limit=2"], 2),
        ("sft", ["max_steps=100", "save_steps=0.1"], 10),
        ("sft", ["num_train_epochs=3", "save_steps=4"], 6),  # 3 epochs of 64 / 8 steps
        ("grpo", ["num_generations=8", "per_device_train_batch_size=8", "save_steps=16"], 4),
        ("sft", ["num_train_epochs=3", "save_strategy=epoch"], 3),
        ("sft", ["save_strategy=no"], 1),
    ],
)
def test_the_number_of_checkpoints(compose, kind, overrides, count):
    args = [f"train.args.{word}" for word in overrides]
    assert checkpoints_kept(compose(kind, "data.size=64", "resources.gpus=0", *args)) == count


# Slurm


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


def test_a_dry_run_of_a_machine_prints_the_command(launch):
    done = launch(*SMALL, "resources.processes=2", "resources.dry_run=true", "name=mine")
    assert shlex.split(done.stdout)[-1] == "runs/mine/launch.yaml"
    assert not (launch.directory / "runs").exists()


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


# sweeps


def test_every_point_of_a_sweep_is_launched_and_failures_count(launch):
    sweep = ["--multirun", *SMALL, "data=file", "data.source=jsonl:none.jsonl", "seed=0,1"]
    done = launch(*sweep)
    assert done.returncode != 0
    assert done.stderr.count("error: the pre-flight check failed") == 2
    assert "runs/sft-seed0: the pre-flight check failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_points_of_a_sweep_with_one_directory_are_refused(launch):
    """The learning rate is not in the name, so the second point would continue the first's run."""
    from launch.__main__ import refuse_another_point, write

    file = launch.directory / "launch.yaml"
    write(file, {"name": "x", "resume": "never", "train": {"args": {"learning_rate": 1}}})
    refuse_another_point(file, {"resume": "auto", "train": {"args": {"learning_rate": 1}}})
    with pytest.raises(ValueError, match="holds a run with another train; put the swept keys"):
        refuse_another_point(file, {"resume": "auto", "train": {"args": {"learning_rate": 2}}})


def test_a_sweep_through_submitit_without_its_package_says_so(launch):
    done = launch("--multirun", *SMALL, "hydra/launcher=submitit_slurm", "seed=0,1")
    assert done.returncode == 2
    assert done.stderr == (
        "error: hydra/launcher=submitit_slurm needs a package: pip install 'headlab[slurm]'\n"
    )


# vLLM


def vllm_lines() -> list[list[str]]:
    """The command lines of docs/training.md that train with vLLM."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    wanted = [line for line in lines if "headlab launch" in line and "use_vllm=true" in line]
    return [shlex.split(line, comments=True) for line in wanted]


def test_the_lines_of_the_docs_for_vllm_build_their_arguments(compose, tmp_path):
    from train.build import training_args

    modes = []
    for words in vllm_lines():
        overrides = words[words.index("launch") + 1 :]
        overrides.remove("train=grpo")
        cfg = compose("grpo", *overrides, f"run_dir={tmp_path}")
        check(cfg)
        args = training_args(cfg)
        assert args.use_vllm
        modes.append(args.vllm_mode)
    assert sorted(modes) == ["colocate", "server"]

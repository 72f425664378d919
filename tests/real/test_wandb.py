"""Against W&B's own client, and a server on loopback that goes away, is slow, or breaks.

In each case the run ends as it does without W&B, soon, and `headlab publish` completes what the
server has, no row twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.wandb_server import Server
from tests.support.places import ROOT
from tests.support.runs import assert_equal_records, small

pytestmark = pytest.mark.real

STEPS, SAVE = 12, 4
ALL = Counter({f"heads/{step}": 1 for step in range(0, STEPS + 1, SAVE)})
ALL += Counter({f"eval/held_out/{step}": 1 for step in range(0, STEPS + 1, SAVE)})
ALL += Counter({f"train/{step}": 1 for step in range(1, STEPS + 1)})
LIMIT = 240  # seconds, of a run that takes 30


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def unlogged(tmp_path_factory: pytest.TempPathFactory, tiny_model_files: Path) -> Path:
    """The run without W&B."""
    place = tmp_path_factory.mktemp("unlogged")
    finish(start(place, tiny_model_files, None, "logger=none"))
    return place / "r"


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory, tiny_model_files: Path) -> Path:
    """The run that no server has been given yet; for copies."""
    place = tmp_path_factory.mktemp("offline")
    finish(start(place, tiny_model_files, None, "logger.wandb_mode=offline"))
    return place / "r"


def environment(server: Server | None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**own, **(server.environment if server else {}), "PYTHONPATH": str(ROOT)}


def start(
    tmp_path: Path, tiny_dir: Path, server: Server | None, *more: str
) -> subprocess.Popen[str]:
    words = small("sft", tiny_dir, tmp_path / "r", "logger=wandb", "name=r")
    words += [f"train.args.max_steps={STEPS}", f"train.args.save_steps={SAVE}", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "train.sft", *words],
        env=environment(server),
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What a run says, which has to end well."""
    try:
        out, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, out
    return out


def wait_for_step(run: Path, step: int) -> None:
    until = time.monotonic() + LIMIT
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)


def publish(run: Path, server: Server) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis", "publish", f"run={run}"]
    return subprocess.run(
        command,
        env=environment(server),
        cwd=run.parent,
        timeout=LIMIT,
        capture_output=True,
        text=True,
    )


def given(server: Server) -> Counter[str]:
    return Counter(mark.split()[0] for mark in server.named("headlab/row"))


def core_of(pid: int) -> int:
    """The second process of W&B below a process; 0: there is none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in map(int, children):
        if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text():
            return child
        found = core_of(child)
        if found:
            return found
    return 0


def test_an_online_run(tmp_path: Path, tiny_dir: Path, server: Server) -> None:
    out = finish(start(tmp_path, tiny_dir, server))
    assert given(server) == ALL, out
    assert list(server.state.values()) == ["finished"]
    assert server.named("heads/step") == sorted(server.named("heads/step"))
    assert all(isinstance(table, dict) for table in server.named("heads/table"))
    assert publish(tmp_path / "r", server).stdout == "nothing is missing\n"


def kill_core(core: int, server: Server) -> None:
    os.kill(core, signal.SIGKILL)


def freeze_core(core: int, server: Server) -> None:
    os.kill(core, signal.SIGSTOP)


def take_server_away(core: int, server: Server) -> None:
    server.down()


def break_server(core: int, server: Server) -> None:
    server.broken = True


def slow_server(core: int, server: Server) -> None:
    server.delay = 60.0


@pytest.mark.parametrize(
    "harm", [kill_core, freeze_core, take_server_away, break_server, slow_server]
)
def test_a_wandb_that_fails_in_a_run(
    tmp_path: Path,
    tiny_dir: Path,
    server: Server,
    unlogged: Path,
    harm: Callable[[int, Server], None],
) -> None:
    run = tmp_path / "r"
    process = start(tmp_path, tiny_dir, server)
    wait_for_step(run, 5)
    core = core_of(process.pid)
    assert core
    harm(core, server)
    finish(process)
    if harm is freeze_core:
        os.kill(core, signal.SIGKILL)
    weights = "checkpoint-12/model.safetensors"
    assert (run / weights).read_bytes() == (unlogged / weights).read_bytes()
    assert_equal_records(run, unlogged, exact=True)
    server.down()
    server.broken, server.delay = False, 0.0
    server.up()
    done = publish(run, server)
    assert done.returncode == 0, done.stderr
    assert given(server) == ALL
    assert publish(run, server).stdout == "nothing is missing\n"
    assert given(server) == ALL


@pytest.mark.parametrize("harm", [take_server_away, break_server, slow_server])
def test_a_wandb_that_is_away_at_the_start(
    tmp_path: Path, tiny_dir: Path, server: Server, harm: Callable[[int, Server], None]
) -> None:
    """The run is kept offline, which is one line; publish says so too, and later uploads it."""
    harm(0, server)
    out = finish(start(tmp_path, tiny_dir, server))
    assert out.count("It is kept offline; headlab publish run=") == 1
    refused = publish(tmp_path / "r", server)
    assert refused.returncode == 1
    assert "can't be reached" in refused.stderr
    server.down()
    server.broken, server.delay = False, 0.0
    server.up()
    assert "logged 20 rows" in publish(tmp_path / "r", server).stdout
    assert given(server) == ALL


@pytest.mark.parametrize("requests", [3, 8, 14])
def test_a_server_that_dies_while_it_is_given_a_run(
    tmp_path: Path, server: Server, offline: Path, requests: int
) -> None:
    run = Path(shutil.copytree(offline, tmp_path / "r"))
    answer = server.answer

    def dying(path: str, content: bytes) -> dict[str, object]:
        if server.requests >= requests:
            server.broken = True
        return answer(path, content)

    server.answer = dying  # type: ignore[method-assign]
    assert publish(run, server).returncode == 1
    server.answer, server.broken = answer, False  # type: ignore[method-assign]
    assert publish(run, server).returncode == 0
    assert given(server) == ALL
    assert publish(run, server).stdout == "nothing is missing\n"

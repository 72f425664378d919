"""One holder at a time, whoever dies when."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from analysis.files import CLAIMS, check_claims
from analysis.records import locks
from analysis.records.locks import Held, Lock, holder_of
from tests.support.places import ROOT


def test_held_until_released(tmp_path):
    with Lock.take(tmp_path / "lock", "the run r"):
        with pytest.raises(Held, match=f"the run r is in use by process {os.getpid()} on "):
            Lock.take(tmp_path / "lock", "the run r")
        assert holder_of(tmp_path / "lock").pid == os.getpid()
    assert holder_of(tmp_path / "lock") is None
    Lock.take(tmp_path / "lock", "the run r").release()


def test_an_heir_takes_over_and_the_giver_can_release_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    giver = Lock.take(tmp_path / "lock", "r")
    heir = Lock.take(tmp_path / "lock", "r", heir_of=giver.token)
    check_claims()  # that it was handed over is no loss to the giver
    giver.release()
    assert holder_of(tmp_path / "lock").token == heir.token
    with pytest.raises(Held):
        Lock.take(tmp_path / "lock", "r", heir_of=giver.token)
    heir.release()
    assert not CLAIMS


HOLDER = """
import pathlib, sys
from analysis.files import write_json
from analysis.records import locks
locks.BEAT = float(sys.argv[2])
run = pathlib.Path(sys.argv[1])
lock = locks.Lock.take(run / "lock", "the run r")
print("held", flush=True)
sys.stdin.readline()  # stands still
write_json(run / "record.json", 1)
lock.release()
"""


def holder_process(directory: Path, *before: str, beat: float = 600) -> subprocess.Popen[str]:
    """A process that holds a lock, writes a record when it is told to, and ends."""
    child = subprocess.Popen(
        [*before, sys.executable, "-c", HOLDER, str(directory), str(beat)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n", child.stderr
    return child


@pytest.mark.parametrize("beat", [600, 0.05])
def test_who_was_robbed_ends_at_once_and_writes_nothing(tmp_path, beat):
    """Found at its next write, or, where it writes nothing, at its next sign of life."""
    child = holder_process(tmp_path, beat=beat)
    file = tmp_path / "lock" / "1"
    file.write_text(file.read_text().replace(socket.gethostname(), "elsewhere"))
    with Lock.take(tmp_path / "lock", "r", expiry=0.0):
        _, said = child.communicate("write\n" if beat > 1 else None, timeout=60)
    assert child.returncode == 1
    assert said.startswith(f"error: the run r was taken over by process {os.getpid()} on ")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "record.json").exists()


CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
CAN_UNSHARE = subprocess.run([*CONTAINER, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not CAN_UNSHARE, reason="needs a PID namespace of its own")
def test_of_another_container_of_this_machine_is_held(tmp_path):
    """There the holder's number is another process's, or nobody's."""
    child = holder_process(tmp_path, *CONTAINER)
    with pytest.raises(Held, match="the run r is in use by process 1 on "):
        Lock.take(tmp_path / "lock", "the run r")
    child.communicate("write\n", timeout=60)
    assert (tmp_path / "record.json").exists()
    Lock.take(tmp_path / "lock", "r").release()


@pytest.mark.parametrize("kind", ["empty", "directory", "text", "other keys"])
def test_a_file_that_cannot_be_read_counts_while_it_is_new(tmp_path, kind):
    lock = tmp_path / "lock"
    lock.mkdir()
    contents = {"empty": "", "text": "\x00", "other keys": "[1]"}
    if kind == "directory":
        (lock / "3" / "full").mkdir(parents=True)
    else:
        (lock / "3").write_text(contents[kind])
    with pytest.raises(Held, match="r is in use by somebody whose file .*3 can't be read"):
        Lock.take(lock, "r")
    past = time.time() - 2 * locks.EXPIRY
    os.utime(lock / "3", (past, past))
    with Lock.take(lock, "r") as mine:
        assert holder_of(lock).token == mine.token
    assert holder_of(lock) is None


def test_a_file_in_the_place_of_a_lock_is_one_line(tmp_path):
    (tmp_path / "lock").write_text("")
    for place in (tmp_path / "lock", tmp_path / "lock" / "run"):
        with pytest.raises(ValueError, match="holds a lock and has to be a directory"):
            Lock.take(place, "r")


def test_waiting_says_so_once_and_ends_with_the_holder_or_with_its_patience(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(locks, "BEAT", 0.02)
    first = Lock.take(tmp_path / "lock", "the run r")
    with pytest.raises(Held, match=rf"in use by job 7 \(process {os.getpid()} on .*\) since"):
        Lock.wait(tmp_path / "lock", "the run r", 0.1, say=True)
    assert capsys.readouterr().out.count("; waiting for it to end, up to 0 s\n") == 1
    threading.Timer(0.1, first.release).start()
    Lock.wait(tmp_path / "lock", "the run r", 60).release()


def test_of_a_killed_process_of_this_machine_is_free_at_once(tmp_path):
    code = (
        "import sys, time, pathlib; from analysis.records.locks import Lock\n"
        "Lock.take(pathlib.Path(sys.argv[1]), 'r'); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(Held, match=f"process {child.pid} on {socket.gethostname()}"):
        Lock.take(tmp_path / "lock", "r")
    child.send_signal(signal.SIGKILL)
    child.wait()
    Lock.take(tmp_path / "lock", "r").release()


def test_of_another_machine_expires_by_the_clock_of_the_files(tmp_path):
    lock = Lock.take(tmp_path / "lock", "r")
    lock._stop.set()
    content = json.loads(lock.path.read_text())
    content["host"] = "elsewhere"
    lock.path.write_text(json.dumps(content))
    with pytest.raises(Held, match="on elsewhere since"):
        Lock.take(tmp_path / "lock", "r")
    past = time.time() - 2 * locks.EXPIRY
    os.utime(lock.path, (past, past))
    second = Lock.take(tmp_path / "lock", "r")
    lock.release()  # it wakes up again, and can't free what is no longer its own
    assert holder_of(tmp_path / "lock").token == second.token
    second.release()


def test_a_sign_of_life_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    lock = Lock.take(tmp_path / "lock", "r")
    past = time.time() - 2 * locks.EXPIRY
    os.utime(lock.path, (past, past))
    time.sleep(0.3)
    assert time.time() - lock.path.stat().st_mtime < locks.EXPIRY
    lock.release()


def _contend(directory: Path, number: int, rounds: int) -> None:
    """Count up in a file that only the holder may touch."""
    for _ in range(rounds):
        while True:
            try:
                lock = Lock.take(directory / "lock", "r")
                break
            except Held:
                time.sleep(0.001)
        with lock:
            counter = directory / "counter"
            value = int(counter.read_text())
            time.sleep(0.002)
            counter.write_text(str(value + 1))


def test_many_processes_never_hold_it_together(tmp_path):
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_contend, args=(tmp_path, n, 25)) for n in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert (tmp_path / "counter").read_text() == "150"

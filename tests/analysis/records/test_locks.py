"""One holder at a time, whoever dies when."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def test_an_heir_takes_over_and_the_giver_can_release_no_more(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    giver = Lock.take(tmp_path / "lock", "r")
    heir = Lock.take(tmp_path / "lock", "r", heir_of=giver.token)
    giver.release()
    assert holder_of(tmp_path / "lock").token == heir.token
    with pytest.raises(Held):
        Lock.take(tmp_path / "lock", "r", heir_of=giver.token)
    heir.release()
    time.sleep(0.2)
    assert not caplog.text  # that it was handed over is no news to the giver


def test_who_is_robbed_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    lock = Lock.take(tmp_path / "lock", "r")
    lock.path.write_text(lock.path.read_text().replace(lock.holder.host, "elsewhere"))
    Lock.take(tmp_path / "lock", "r", expiry=0.0).release()
    time.sleep(0.2)
    assert "is no longer this process's" in caplog.text
    lock.release()


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

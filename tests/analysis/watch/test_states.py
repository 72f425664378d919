"""What a run is doing, by its lock and by what it left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from analysis.files import write_json
from analysis.records.locks import FREE, Lock, lock_state
from analysis.watch.states import STATES, state_of


def test_a_run_without_a_lock_does_not_say(tmp_path):
    assert state_of(tmp_path) == "open"


def test_a_run_that_is_trained_in(tmp_path):
    with Lock.take(tmp_path / "locks" / "run", "it"):
        assert state_of(tmp_path) == "running"
    assert state_of(tmp_path) == "stopped"
    write_json(tmp_path / "finished.json", {"step": 3})
    assert state_of(tmp_path) == "finished"
    with Lock.take(tmp_path / "locks" / "run", "it"):  # trained on
        assert state_of(tmp_path) == "running"


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from analysis.records.locks import Lock\n"
        "Lock.take(Path(sys.argv[1]), 'it'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "locks" / "run")], check=False)
    assert state_of(tmp_path) == "killed"
    write_json(tmp_path / "finished.json", {"step": 3})  # it had come so far
    assert state_of(tmp_path) == "finished"


@pytest.mark.parametrize(("age", "state"), [(0.0, "held"), (1000.0, "left")])
def test_the_lock_of_another_machine_is_held_while_it_gives_signs_of_life(tmp_path, age, state):
    with Lock.take(tmp_path, "it") as lock:
        text = lock.path.read_text()
        host = lock.holder.host
    lock.path.write_text(text.replace(host, f"not-{host}"))
    there = lock.path.stat().st_mtime
    os.utime(lock.path, (there - age, there - age))
    before = sorted(tmp_path.iterdir())
    assert lock_state(tmp_path) == state
    assert sorted(tmp_path.iterdir()) == before  # looking leaves no trace
    os.utime(lock.path, (FREE, FREE))
    assert lock_state(tmp_path) == "free"


def test_every_state_is_explained():
    assert set(STATES) == {"running", "finished", "stopped", "killed", "open"}

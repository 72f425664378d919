"""Warm processes (tests/support/warm.py) do what a Python that is started in the usual way does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.places import ROOT
from tests.support.warm import pid_of, warm_python


def both(words: list[str], **options: object) -> list[tuple[int, str, str]]:
    """Status, output and last line of the errors: started in the usual way, and warm."""
    found = []
    for python in (sys.executable, warm_python()):
        done = subprocess.run([python, *words], capture_output=True, text=True, **options)
        found.append((done.returncode, done.stdout, "".join(done.stderr.splitlines()[-1:])))
    return found


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(7)",
        "raise SystemExit",
        "raise SystemExit('no')",
        "raise ValueError('no')",
        "import os; os._exit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import atexit; atexit.register(print, 'at the end'); print('before')",
        "import threading, time\ndef late(): time.sleep(0.2); print('late')\n"
        "threading.Thread(target=late).start()",
        "import sys; print(sys.argv, __name__, sys.stdin.read())",
        "import torch; print(torch.get_num_threads())",
    ],
)
def test_a_process_ends_and_prints_as_any_other(code, tmp_path):
    usual, warm = both(["-c", code, "a", "b c"], input="given", cwd=tmp_path)
    assert warm == usual


def test_modules_and_files_are_found_where_they_always_are(tmp_path):
    show = (
        "import sys, os; print(sys.argv, __name__, os.getcwd(), os.environ['MINE'], sys.path[:2])"
    )
    (tmp_path / "shown.py").write_text(show)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINE": "x"}
    for words in (["-m", "shown", "a"], ["-u", "shown.py"], [str(tmp_path / "shown.py")]):
        usual, warm = both(words, cwd=tmp_path, env=environment)
        assert warm == usual
        assert usual[0] == 0


def test_the_projects_own_modules_are_not_imported_beforehand(tmp_path):
    code = (
        "import sys; own = {'analysis', 'train', 'launch', 'tests'}\n"
        "print([name for name in sys.modules if name.split('.')[0] in own], 'trl' in sys.modules)"
    )
    done = subprocess.run([warm_python(), "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "[] True\n"


def test_no_two_draw_the_same():
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1))"
    command = [warm_python(), "-c", code]
    drawn = [subprocess.check_output(command, text=True).split() for _ in range(2)]
    assert not set(drawn[0]) & set(drawn[1])


SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_reaches_the_fork(number):
    child = subprocess.Popen(
        [warm_python(), "-c", SLEEP], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    fork = int(child.stdout.readline())
    assert fork == pid_of(child)
    child.send_signal(number)
    interrupted = (1, -number)  # by what some library does at the end, a Python returns 1
    assert child.wait(timeout=30) in (interrupted if number == signal.SIGINT else (-number,))
    psutil.wait_procs([psutil.Process(fork)] if psutil.pid_exists(fork) else [], timeout=30)
    assert not psutil.pid_exists(fork)


def test_a_fork_that_is_killed_ends_its_process():
    child = subprocess.Popen([warm_python(), "-c", SLEEP], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(pid_of(child), signal.SIGKILL)
    assert child.wait(timeout=30) == -signal.SIGKILL


def test_what_a_warm_process_starts_is_warm_unless_it_asks_for_more():
    code = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    show = "import sys; print('trl' in sys.modules)"
    for flags, warm in ((["-c"], True), (["-P", "-c"], False)):
        words = [warm_python(), "-c", code, *flags, show]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.stdout == f"{warm}\n"


def test_the_fork_is_found_as_soon_as_it_is_there_and_no_more_once_it_has_ended() -> None:
    child = subprocess.Popen([warm_python(), "-c", "import time; time.sleep(60)"])
    os.kill(pid_of(child), signal.SIGKILL)
    assert child.wait(timeout=60) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError, match="has ended"):
        pid_of(child)

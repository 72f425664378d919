"""Is the answer in this completion right? Bounded in time and memory, on any thread.

Where the answer is taken from: analysis/prompts/answers.py. What counts as the same answer:
analysis/evaluation/reading.py. Both take time linear in the text; an answer longer than MAX_LENGTH
characters or with more than MAX_NESTING brackets is not read at all.

Formulas are compared by math-verify in a process of its own (analysis.evaluation.verify_worker),
one for each process that asks, started when first needed, shared by its threads one at a time.

The same process runs the scorers of reasoning-gym's tasks; what they raise counts as unparseable.

What one answer can cost: TIME_LIMIT seconds of CPU time, after which the process ends, and the
start of a new one; by the clock PATIENCE times as long, on a machine that is that busy. If the
process dies (memory, or somebody killed it), the answer is tried once more. So at most
2 x (TIME_LIMIT + start). Measured on two cores of a shared machine: a start took 0.5 to 0.8 s
(ten starts), towers of powers and factorials of tests/test_verify.py 2.0 to 3.2 s (twelve answers,
start included), and finding the answer in a text of braces only, the slowest, 0.2 s a megabyte.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from analysis.evaluation.reading import Unreadable, asked_for, same_answer
from analysis.evaluation.verify_worker import PATIENCE
from analysis.prompts.answers import extract_answer, inner_answer
from analysis.prompts.gold import Gold, Scorer
from analysis.prompts.written_values import listed

MAX_LENGTH = 256
MAX_NESTING = 20
MAX_SCORED = 2**15  # characters of an answer that a scorer reads: plans and grids are long
MAX_GOLD = 4096  # characters of a gold answer that is compared by what it says
TIME_LIMIT = 2.0  # seconds of CPU time of math-verify for one answer
START_LIMIT = 120.0  # seconds; imports from a busy file system are slow
WORKER = Path(__file__).with_name("verify_worker.py")

Failure = Literal["no_answer", "too_long", "unparseable", "timeout"]


@dataclass(frozen=True)
class Verdict:
    """`failure` says why an answer could not be judged; it then counts as wrong.

    no_answer: the completion has none; too_long: not parsed (MAX_LENGTH, MAX_NESTING);
    unparseable: math-verify can't read it, or the gold one, or the task's scorer breaks on it;
    timeout: it took too much time or memory.
    """

    correct: bool
    failure: Failure | None = None


class _Formulas(Exception):
    """Two formulas have to be compared, which the process does."""


def _formulas(answer: str, gold: str) -> bool:
    raise _Formulas


def golds(text: str) -> list[str]:
    r"""The gold answers that a text holds: any of them is right.

    The text may be a solution that ends in `#### 5` or holds a box; a list of quoted texts, as
    Python writes it, is several answers.

    >>> golds("2+3=5\n#### 5"), golds("['5', 'five']")
    (['5'], ['5', 'five'])
    """
    _, marked, last = text.rpartition("####")
    text = last.strip() if marked and last.strip() else text.strip()
    return listed(text) or [inner_answer(text)]


def verify_answer(answer: str | None, gold: str) -> Verdict:
    """Compare an extracted answer with the gold one.

    Raises:
        RuntimeError: the process that runs math-verify does not start.
    """
    if not answer:
        return Verdict(False, "no_answer")
    if answer.strip() == gold.strip():
        return Verdict(True)
    if len(answer) > MAX_LENGTH or sum(map(answer.count, "([{")) > MAX_NESTING:
        return Verdict(False, "too_long")
    if len(gold) > MAX_GOLD:
        return Verdict(False, "unparseable")
    try:
        return Verdict(same_answer(answer, gold, _formulas))
    except Unreadable:
        return Verdict(False, "unparseable")
    except _Formulas:
        return _worker.compare(answer, gold)


def score_answer(answer: str | None, scorer: Scorer) -> Verdict:
    """Whether a generator's own scorer gives an answer 1.

    Raises:
        RuntimeError: the process does not start, or can't make the task's generator.
    """
    if not answer:
        return Verdict(False, "no_answer")
    if len(answer) > MAX_SCORED:
        return Verdict(False, "too_long")
    return _worker.score(answer, scorer)


def judge(completion: str, gold: str | Gold) -> Verdict:
    """Extract the answer of a completion and compare it with what is right."""
    if isinstance(gold, Gold) and gold.scorer is not None:
        return score_answer(extract_answer(completion), gold.scorer)
    verdict = Verdict(False, "no_answer")
    for text in (gold,) if isinstance(gold, str) else gold.texts:
        for right in golds(text):
            verdict = verify_answer(extract_answer(completion, asked_for(right)), right)
            if verdict.correct:
                return verdict
    return verdict


class _Worker:
    """The process that runs math-verify and the socket to it, used by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._closed = False

    def compare(self, answer: str, gold: str) -> Verdict:
        return self._ask([([answer, gold, TIME_LIMIT], TIME_LIMIT * PATIENCE)])

    def score(self, answer: str, scorer: Scorer) -> Verdict:
        """The generator is made first, with the time that a start has."""
        made = {"entry": asdict(scorer), "seconds": START_LIMIT}
        asked = {"scored": answer, "seconds": TIME_LIMIT}
        return self._ask([(made, START_LIMIT), (asked, TIME_LIMIT * PATIENCE)])

    def _ask(self, requests: list[tuple[Any, float]]) -> Verdict:
        """The reply to the last of some requests, each with its seconds by the clock."""
        with self._lock:
            for _ in range(2):  # what ended the process may have nothing to do with this answer
                process, connection = self._running or self._start()
                try:
                    for request, seconds in requests:
                        line = json.dumps(request).encode() + b"\n"
                        correct, failure = self._exchange(connection, line, seconds)
                        if failure and failure not in get_args(Failure):
                            raise RuntimeError(failure)
                    return Verdict(correct, failure)
                except TimeoutError:
                    break
                except OSError:
                    if self._closed or process.returncode == -signal.SIGPROF:  # its time was over
                        break
        return Verdict(False, "timeout")

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", str(WORKER)]
            process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno())
        self._running = process, ours
        try:
            self._exchange(ours, b"", START_LIMIT)
        except OSError:
            raise RuntimeError(
                f"the process that runs math-verify ended with status {process.returncode} before "
                f"it was ready, or took more than {START_LIMIT:.0f} s; to see why, run: "
                f"echo | {' '.join(command)}"
            ) from None
        return self._running

    def _exchange(self, connection: socket.socket, request: bytes, seconds: float) -> Any:
        try:
            connection.settimeout(seconds)
            connection.sendall(request)
            line = connection.recv(4096)  # the few bytes of one write arrive as one
            if not line:
                raise ConnectionError("end of file")
            return json.loads(line)
        except BaseException:  # an interrupt, too: a late reply must not answer the next request
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, whatever it does; the next comparison starts another."""
        if self._running is not None:
            (process, connection), self._running = self._running, None
            process.kill()
            process.wait()
            connection.close()

    def close(self) -> None:
        """At the end of the interpreter, where a daemon thread may still wait for an answer."""
        self._closed = True
        self.stop()

    def leave(self) -> None:
        """In a process forked off this one: the worker is the parent's."""
        self._lock = threading.Lock()  # a thread that is not here may have held it
        if self._running is not None:
            (process, connection), self._running = self._running, None
            process.returncode = 0  # no child of this process
            connection.close()


_worker = _Worker()
os.register_at_fork(after_in_child=_worker.leave)
atexit.register(_worker.close)

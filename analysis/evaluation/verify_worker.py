"""The process in which math-verify runs: one JSON line in, one JSON line out.

    in     [answer, gold, seconds]
           {"entry": a Scorer's fields, "seconds"}: take the entry of a reasoning-gym problem
           {"scored": answer, "seconds"}: is its score 1?
    out    [correct, failure]      failure: null or "unparseable"; first of all a line `[]`: ready

Answer and gold are compared by the rules of analysis/evaluation/reading.py; formulas by
math-verify, and then once more: it rounds (1/2^98 is 1/2^99 for it), so two formulas that it takes
for equal must agree to 50 digits. Decimals are exact. By hand:

    echo '["\\\\frac{x}{2}", "0.5x", 2]' | python -m analysis.evaluation.verify_worker

`seconds` are of this process's own CPU time, after which the kernel ends it (SIGPROF), so that a
verdict does not depend on what else the machine does. Who asks kills it after PATIENCE times as
long by the clock, and it ends by itself one second later (its parent may be gone), at the end of
its input, and when memory runs out.

Its address space is bounded by MEMORY, and it ends after an answer that
leaves half of that in use (sympy's caches keep numbers), so that no answer suffers from another.
Some scorers evaluate an answer as Python, so this process starts no process, opens no connection
and writes and removes no file (an audit hook refuses it). It imports math-verify, and reasoning-gym
when first needed: no torch, no GPU.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.prompts.gold import Scorer

PATIENCE = 10  # times the CPU seconds of an answer that it may take by the clock
MEMORY = 2**30  # bytes of address space; 64 MiB of it are math-verify's own


def _parse(text: str) -> Any:
    import math_verify
    import sympy
    from latex2sympy2_extended import NormalizationConfig

    from analysis.evaluation.reading import Unreadable

    # Units are read before; math-verify would take the h of 2h for one.
    config = math_verify.LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
        ),
    )
    text = text.replace("⦃", "\\{").replace("⦄", "\\}")
    parsed = math_verify.parse(
        f"\\boxed{{{text}}}", [config], "no_fallback", parsing_timeout=None, raise_on_error=True
    )
    if not parsed:
        raise Unreadable(text)
    found = parsed[0]
    if isinstance(found, sympy.Basic) and not found.has(sympy.Sum, sympy.Product):
        units = {symbol: sympy.I for symbol in found.free_symbols if str(symbol) == "i"}
        found = found.subs(units)
    return sympy.nsimplify(found, rational=True) if isinstance(found, sympy.Expr) else found


def _differ(one: Any, other: Any) -> bool:
    """Whether two expressions have different values to 50 digits, names being some numbers."""
    import sympy

    names = sorted(one.free_symbols | other.free_symbols, key=str)
    values = {name: sympy.Rational(3 * i + 4, 2 * i + 3) for i, name in enumerate(names)}
    left, right = (side.subs(values).doit() for side in (one, other))
    scale = max(abs(left.evalf(60)), abs(right.evalf(60)))
    return bool(abs((left - right).evalf(60)) > scale * sympy.Float(10) ** -50)


def _cases(text: str) -> tuple[set[str], set[str]]:
    letters = re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", text)
    return set(filter(str.isupper, letters)), set(filter(str.islower, letters))


def _same_formulas(answer: str, gold: str) -> bool:
    import math_verify
    import sympy

    (upper, lower), (gold_upper, gold_lower) = _cases(answer), _cases(gold)
    swapped = {c.lower() for c in upper} & gold_lower - lower
    if swapped or {c.lower() for c in gold_upper} & lower - gold_lower:
        return False  # the parser knows no capitals
    mine, right = _parse(answer), _parse(gold)
    equations = [isinstance(side, sympy.Eq) for side in (mine, right)]
    if all(equations):
        ratio = sympy.simplify((mine.lhs - mine.rhs) / (right.lhs - right.rhs))
        return bool(ratio.is_number and ratio.is_finite and ratio != 0)
    if any(equations):
        return False
    equal = math_verify.verify(right, mine, timeout_seconds=None, raise_on_error=True)
    if equal and isinstance(mine, sympy.MatrixBase):
        return mine.shape == right.shape and not any(map(_differ, mine, right))
    if equal and isinstance(mine, sympy.Expr) and isinstance(right, sympy.Expr):
        return mine == right or not _differ(mine, right)
    return bool(equal)


def compare(answer: str, gold: str) -> tuple[bool, str | None]:
    """Whether an answer is the gold one, and why it could not be told.

    Raises:
        MemoryError: the comparison does not fit into memory.
    """
    from analysis.evaluation.reading import same_answer

    try:
        return same_answer(answer, gold, _same_formulas), None
    except MemoryError:
        raise
    except Exception:  # the parser meets text that a model made up; any failure is a wrong answer
        return False, "unparseable"


class _Guard:
    """An audit hook that refuses what an answer, evaluated as Python, might do outside."""

    _refused = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "signal.", "fcntl.")
    _harmless = frozenset({"os.listdir", "os.scandir", "os.walk"})

    def __init__(self) -> None:
        self.up = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.up:
            return
        if event == "open" and set(str(arguments[1])) & set("wax+"):
            raise PermissionError("the verifier writes no file")
        if event.startswith(self._refused) and event not in self._harmless:
            raise PermissionError(f"the verifier does nothing outside itself ({event})")


class _Task:
    """The generator in use, and the entry whose answers are scored."""

    def __init__(self) -> None:
        self._scorer: Scorer | None = None
        self._dataset: Any = None
        self._entry: Any = None

    def make(self, fields: dict[str, Any]) -> tuple[bool, str | None]:
        """Make ready to score answers to an entry; why not, if that fails."""
        from analysis.prompts.gold import Scorer, unpack

        scorer = Scorer(**fields)
        try:
            self._entry = unpack(json.loads(scorer.entry))
            if self._scorer is None or replace(self._scorer, entry=scorer.entry) != scorer:
                self._dataset = scorer.dataset()
                with contextlib.suppress(Exception):  # what it imports at first use, it imports now
                    self._dataset.score_answer("1 + 1", entry=self._entry)
        except MemoryError:
            raise
        except Exception as error:
            self._scorer = None
            return False, f"the scorer of {scorer.task} can't be made: {error!r}"[:1000]
        self._scorer = scorer
        return True, None

    def score(self, answer: str) -> tuple[bool, str | None]:
        """Whether the entry's own scorer gives an answer 1; whatever it raises makes it wrong."""
        try:
            return float(self._dataset.score_answer(answer, entry=self._entry)) >= 1.0, None
        except MemoryError:
            raise
        except (Exception, SystemExit):
            return False, "unparseable"


def _bound() -> None:
    """Bound memory, write no core files, and leave the parent's signals to the parent."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    memory = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    for timer in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer, signal.SIG_DFL)  # the kernel ends the process, whatever it does


def _time(seconds: float) -> None:
    """Let the process end after so many seconds of CPU time; 0 takes the limit away."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds and seconds * PATIENCE + 1)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    """Answer the requests on standard input until it ends."""
    _bound()
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no reply
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    compare("\\frac{x}{2}", "x/3")  # what is built at first use is built now
    guard = _Guard()
    replies.write(b"[]\n")
    task = _Task()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        seconds = request["seconds"] if isinstance(request, dict) else request[2]
        _time(seconds)
        guard.up = isinstance(request, list) or "scored" in request
        try:
            if isinstance(request, list):
                reply = compare(*request[:2])
            elif "entry" in request:
                reply = task.make(request["entry"])
            else:
                reply = task.score(request["scored"])
        except MemoryError:
            return
        guard.up = False
        _time(0)
        replies.write(json.dumps(reply).encode() + b"\n")
        if _address_space() > MEMORY // 2:
            return


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it is started by its path
    with contextlib.suppress(BrokenPipeError):  # nobody waits for the reply any more
        main()

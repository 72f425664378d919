"""The process in which math-verify runs: one JSON line in, one JSON line out.

    in     [answer, gold, seconds]
    out    [correct, failure]      failure: null or "unparseable"; first of all a line `[]`: ready

Gold and answer are boxed, because bare golds are often misread. By hand:

    echo '["\\\\frac{1}{2}", "0.5", 2]' | python -m analysis.evaluation.verify_worker

Who asks keeps the time and kills this process when it is over. The process ends by itself at the
end of its input, one second after `seconds` (its parent may be gone while a long operation runs),
and when memory runs out. Its address space is bounded by MEMORY, and it ends after an answer that
leaves half of that in use (sympy's caches keep numbers), so that no answer suffers from another.
It imports math-verify alone: no torch, no GPU.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from pathlib import Path

MEMORY = 2**30  # bytes of address space; 64 MiB of it are math-verify's own


def compare(answer: str, gold: str) -> tuple[bool, str | None]:
    """Whether math-verify takes an answer for the gold one, and why it could not tell.

    Raises:
        MemoryError: the comparison does not fit into memory.
    """
    import math_verify

    try:
        expected, parsed = (
            math_verify.parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=True)
            for text in (gold, answer)
        )
        if not parsed or not expected:
            return False, "unparseable"
        equal = math_verify.verify(expected, parsed, timeout_seconds=None, raise_on_error=True)
        return bool(equal), None
    except MemoryError:
        raise
    except Exception:  # the parser meets text that a model made up; any failure is a wrong answer
        return False, "unparseable"


def _bound() -> None:
    """Bound memory, write no core files, and leave the parent's signals to the parent."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    memory = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends the process, whatever it does


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    """Answer the requests on standard input until it ends."""
    _bound()
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no reply
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    compare("\\frac{x}{2}", "x/3")  # what is built at first use is built now
    replies.write(b"[]\n")
    for line in sys.stdin.buffer:
        answer, gold, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)
        try:
            reply = compare(answer, gold)
        except MemoryError:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(reply).encode() + b"\n")
        if _address_space() > MEMORY // 2:
            return


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # nobody waits for the reply any more
        main()

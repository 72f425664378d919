"""Locks between processes that share a directory, also between machines that share a file system.

A lock is a directory of numbered files. The file with the highest number says who holds the lock.

Taking it: a process makes a hard link with the next number. The link can be made only once, so two
processes never hold the lock. Numbers only rise: a process that read an old number fails.

Holding it: the holder touches its file every BEAT seconds.

Giving it back: the holder sets the file's time to 0 (1970), which also works on a full disk.

Taking it over: this is allowed when the file was not touched for `expiry` seconds, or when its
holder was a process of this machine that is gone. Both times of an age come from the file system,
so the clocks of the machines need not agree.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)

EXPIRY = 120.0  # seconds without a sign of life after which a lock is taken over
BEAT = 10.0  # seconds between two signs of life
FREE = 0.0  # time of the file of a lock that was given back


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: a process of a machine, since when (local time), under which token."""

    host: str
    pid: int
    started: str  # of the process, in the clock of its machine's kernel: tells reused pids apart
    since: str
    token: str
    heir_of: str | None = None  # token of the holder that handed the lock over

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Held(ValueError):
    """Somebody else holds the lock: `holder`."""

    def __init__(self, what: str, holder: Holder) -> None:
        super().__init__(f"{what} is in use by {holder}")
        self.holder = holder


def _process_start(pid: int) -> str:
    """When a process of this machine started, in clock ticks; empty if it is not there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    state, *rest = text.rpartition(")")[2].split()
    return "" if state == "Z" else rest[18]  # a zombie holds nothing


def _myself(heir_of: str | None) -> Holder:
    pid = os.getpid()
    return Holder(
        host=socket.gethostname(),
        pid=pid,
        started=_process_start(pid),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        token=os.urandom(8).hex(),
        heir_of=heir_of,
    )


def _numbers(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit())


def _read(path: Path) -> Holder:
    return Holder(**json.loads(path.read_text(encoding="utf-8")))


def _draft(directory: Path, holder: Holder) -> Path:
    """Write a file that is not yet part of the lock; its time is the file system's now."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f".draft-{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
    path.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    return path


def _now(directory: Path, holder: Holder) -> float:
    """The file system's time, or this machine's where nothing can be written."""
    try:
        draft = _draft(directory, holder)
    except OSError:
        return time.time()
    now = draft.stat().st_mtime
    draft.unlink()
    return now


def holder_of(directory: Path, expiry: float = EXPIRY) -> Holder | None:
    """Who holds a lock now, or None."""
    numbers = _numbers(directory)
    if not numbers:
        return None
    last = directory / str(numbers[-1])
    try:
        holder = _read(last)
        touched = last.stat().st_mtime
    except FileNotFoundError:  # somebody took the lock over in between
        return holder_of(directory, expiry)
    if touched == FREE:
        return None
    if holder.host == socket.gethostname() and Path("/proc/self/stat").exists():
        return holder if _process_start(holder.pid) == holder.started else None
    return holder if _now(directory, holder) - touched < expiry else None


class Lock:
    """A lock that this process holds, until `release`; a context manager."""

    def __init__(self, directory: Path, number: int, holder: Holder) -> None:
        self.path = directory / str(number)
        self.holder = holder
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep, name=f"lock {directory}", daemon=True)
        self._beat.start()

    @classmethod
    def take(
        cls, directory: Path, what: str, expiry: float = EXPIRY, heir_of: str | None = None
    ) -> Lock:
        """Take the lock that is kept in `directory`.

        Args:
            what: what it protects, for the error.
            heir_of: token of a holder that hands the lock over to this process.

        Raises:
            Held: somebody else holds it.
        """
        numbers = _numbers(directory)
        current = holder_of(directory, expiry)
        if current is not None and current.token != heir_of:
            raise Held(what, current)
        mine = _myself(heir_of)
        draft = _draft(directory, mine)
        number = (numbers[-1] if numbers else 0) + 1
        try:
            os.link(draft, directory / str(number))
        except FileExistsError:  # another one was faster; if it is done already, try again
            return cls.take(directory, what, expiry, heir_of)
        finally:
            draft.unlink()
        if _numbers(directory)[-1] != number:  # others came and went since the numbers were read
            (directory / str(number)).unlink(missing_ok=True)
            return cls.take(directory, what, expiry, heir_of)
        for old in numbers:
            (directory / str(old)).unlink(missing_ok=True)
        return cls(directory, number, mine)

    @property
    def token(self) -> str:
        return self.holder.token

    def _keep(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                os.utime(self.path)
            except FileNotFoundError:  # taken over while this process stood still, or handed over
                directory = self.path.parent
                if _read(directory / str(_numbers(directory)[-1])).heir_of != self.token:
                    log.warning("the lock %s is no longer this process's", directory)
                return
            except OSError:  # the file system is away: it may come back before the lock expires
                continue

    def release(self) -> None:
        """Give the lock back; nothing happens if it was handed over or taken over."""
        self._stop.set()
        self._beat.join()
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path, (FREE, FREE))

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

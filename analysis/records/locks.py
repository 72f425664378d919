"""Locks between processes that share a directory, also between machines that share a file system.

A lock is a directory of numbered files. The file with the highest number says who holds the lock.

Taking it: a process makes a hard link with the next number. The link can be made only once, so two
processes never hold the lock. Numbers only rise: a process that read an old number fails.

Holding it: the holder touches its file every BEAT seconds.

Giving it back: the holder sets the file's time to 0 (1970), which also works on a full disk.

Taking it over: this is allowed when the file was not touched for `expiry` seconds, or when its
holder was a process that this one can see and that is gone: of this kernel and this PID namespace,
for in another container its number means another process, or none. Both times of an age come from
the file system, so the clocks of the machines need not agree.

Losing it: a holder that stood still (a suspended machine, a stopped container) for longer than that
may find another in its place. It looks at each sign of life and before everything that it writes
(`analysis.files.check_claims`), and then ends at once, with one line and status 1.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from analysis.files import CLAIMS, read_json

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
    place: str = ""  # where the pid counts: kernel and PID namespace; empty where /proc has another
    job: str | None = None  # Slurm's

    def __str__(self) -> str:
        process = f"process {self.pid} on {self.host}"
        who = process if self.job is None else f"job {self.job} ({process})"
        return f"{who} since {self.since}"


@dataclass(frozen=True)
class Unknown:
    """Who holds a lock whose file can't be read, if it is not old: a crash may have left it."""

    path: Path
    token: str = ""

    def __str__(self) -> str:
        return f"somebody whose file {self.path} can't be read (it counts for {EXPIRY:.0f} s)"


class Held(ValueError):
    """Somebody else holds the lock: `holder`."""

    def __init__(self, what: str, holder: Holder | Unknown) -> None:
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


def _place() -> str:
    """Where the number of this process counts; empty if /proc is that of another namespace."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return ""
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{kernel} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _myself(heir_of: str | None) -> Holder:
    pid = os.getpid()
    return Holder(
        host=socket.gethostname(),
        pid=pid,
        started=_process_start(pid),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        token=os.urandom(8).hex(),
        heir_of=heir_of,
        place=_place(),
        job=os.environ.get("SLURM_JOB_ID"),
    )


def _numbers(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit())


def _read(path: Path) -> Holder | Unknown:
    """The holder that a file names.

    Raises:
        FileNotFoundError: it is not there.
    """
    try:
        return read_json(path, Holder)
    except FileNotFoundError:
        raise
    except ValueError:  # empty after a crash, or no file of ours
        return Unknown(path)


def _draft(directory: Path, holder: Holder) -> Path:
    """Write a file that is not yet part of the lock; its time is the file system's now."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{directory} holds a lock and has to be a directory; remove it") from None
    path = directory / f".draft-{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
    path.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    return path


def _now(directory: Path) -> float:
    """The file system's time, or this machine's where nothing can be written."""
    try:
        draft = _draft(directory, _myself(None))
    except OSError:
        return time.time()
    now = draft.stat().st_mtime
    draft.unlink()
    return now


def holder_of(directory: Path, expiry: float = EXPIRY) -> Holder | Unknown | None:
    """Who holds a lock now, or None."""
    last = _last_holder(directory)
    return last[0] if last and _is_alive(*last, expiry, partial(_now, directory)) else None


def lock_state(directory: Path, expiry: float = EXPIRY) -> str:
    """`held`, `free` (given back, or never taken), or `left` by a holder that is gone.

    Nothing is written, so this machine's clock stands for the file system's.
    """
    if (last := _last_holder(directory)) is None:
        return "free"
    return "held" if _is_alive(*last, expiry, time.time) else "left"


def _last_holder(directory: Path) -> tuple[Holder | Unknown, float] | None:
    """Who took a lock last and the time of its last sign of life; None if it was given back."""
    numbers = _numbers(directory)
    if not numbers:
        return None
    last = directory / str(numbers[-1])
    try:
        holder, touched = _read(last), last.stat().st_mtime
    except FileNotFoundError:  # somebody took the lock over in between
        return _last_holder(directory)
    return None if touched == FREE else (holder, touched)


def _is_alive(
    holder: Holder | Unknown, touched: float, expiry: float, now: Callable[[], float]
) -> bool:
    """Whether a holder that has not given its lock back is still there."""
    here = (socket.gethostname(), _place())
    if isinstance(holder, Holder) and here[1] and (holder.host, holder.place) == here:
        return _process_start(holder.pid) == holder.started
    return now() - touched < expiry


class Lock:
    """A lock that this process holds, until `release`; a context manager."""

    def __init__(self, directory: Path, number: int, holder: Holder, what: str) -> None:
        self.path = directory / str(number)
        self.holder = holder
        self.what = what
        self._handed_over = False
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep, name=f"lock {directory}", daemon=True)
        self._beat.start()
        CLAIMS.append(self.check)

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
            with contextlib.suppress(OSError):  # no file of ours
                (directory / str(old)).unlink(missing_ok=True)
        return cls(directory, number, mine, what)

    @classmethod
    def wait(
        cls,
        directory: Path,
        what: str,
        patience: float,
        heir_of: str | None = None,
        say: bool = False,
    ) -> Lock:
        """`take`, after waiting up to `patience` seconds for a holder that goes, or has gone.

        say: print a line that it waits.

        Raises:
            Held: somebody else holds it still.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return cls.take(directory, what, heir_of=heir_of)
            except Held as held:
                if time.monotonic() >= deadline:
                    raise
                if say:
                    print(f"{held}; waiting for it to end, up to {patience:.0f} s", flush=True)
                say = False
            time.sleep(min(1.0, BEAT))

    @property
    def token(self) -> str:
        return self.holder.token

    def check(self) -> None:
        """Give a sign of life, and end this process if the lock was taken over meanwhile."""
        if self._handed_over:
            return
        try:
            os.utime(self.path)
            if _numbers(self.path.parent)[-1] == int(self.path.name):
                return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                return  # the file system is away: it may come back before the lock expires
        newest = _numbers(self.path.parent)
        try:
            other = _read(self.path.with_name(str(newest[-1]))) if newest else None
        except FileNotFoundError:
            return  # changing hands right now; the next look will tell
        if isinstance(other, Holder) and other.heir_of == self.token:
            self._handed_over = True
        elif other is not None and not self._stop.is_set():
            self._lost(other)

    def _lost(self, other: Holder | Unknown) -> None:
        print(
            f"error: {self.what} was taken over by {other} while this process ({os.getpid()}) "
            "stood still; it ends here and writes nothing more",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # no other way reaches the main thread before it writes

    def _keep(self) -> None:
        while not self._stop.wait(BEAT) and not self._handed_over:
            self.check()

    def release(self) -> None:
        """Give the lock back; nothing happens if it was handed over or taken over."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._beat.join()
        CLAIMS.remove(self.check)
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

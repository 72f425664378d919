"""The loop that tracks checkpoints as they come, in a process beside whatever makes them.

A `Source` says which checkpoints are whole now, and loads them: the run of a headlab trainer
(launch/sidecar.py), a directory that any trainer writes to (analysis/live/directories.py), the
revisions of a model on the hub (analysis/live/revisions.py). `follow` takes one checkpoint at a
time, in the order of the steps; several processes that follow one run share the work, by a lock for
each step.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from analysis.models.loading import Model
    from analysis.reporting.alerts import Alarm
    from analysis.reporting.publish import Publisher
    from analysis.tracking.tracker import HeadTracker
    from analysis.trajectories.trajectory import Known

log = logging.getLogger(__name__)


class Gone(Exception):
    """A checkpoint that was removed, or written anew, while it was read."""


@dataclass(frozen=True)
class Found:
    """A checkpoint. path: its directory or hub name, as it is said and loaded."""

    step: int
    path: str | Path


class Source(Protocol):
    """Where the checkpoints of a run come from."""

    def pending(self) -> list[Found]:
        """Those that are whole and have no record, by step."""

    def loaded(self, found: Found, device: str) -> AbstractContextManager[Model]:
        """The model of a checkpoint, for as long as it is measured.

        Raises:
            Gone: it is no longer there.
            ValueError: it can't be loaded.
        """

    def is_over(self, wait: bool) -> bool:
        """Whether no further checkpoint will become whole.

        wait: False counts what is there only.
        """

    def left_out(self) -> list[str]:
        """What is there and can't be tracked, a line for each."""


@dataclass
class Watched:
    """What is followed, and where its records go.

    publisher: W&B, where this process gives it the rows. known: of the trajectory, for the next
    page. alarm: what looks at the rows. needed: called heads that are taken out of the last
    checkpoint in the end; None: all, 0: none.
    """

    run: Path
    source: Source
    tracker: HeadTracker
    publisher: Publisher | None = None
    known: Known = field(default_factory=dict)
    alarm: Alarm | None = None
    needed: int | None = 0
    _last: int = 0

    def track(self, found: Found, device: str) -> bool:
        """Track a checkpoint unless another process does; whether it was done here.

        Raises:
            Gone: it is no longer there.
            ValueError: it can't be loaded.
        """
        from analysis.records.locks import Held, Lock

        step = found.step
        try:
            claim = Lock.take(self.run / "locks" / f"step-{step:06d}", f"step {step}")
        except Held:
            return False
        with claim:
            if self.tracker.is_tracked(step):
                return False
            print(f"step {step}: {found.path}", flush=True)
            with self.source.loaded(found, device) as model:
                self.tracker.track(model, step)
        self._last = step
        return True

    def ask(self, device: str) -> None:
        """Whether the called heads of the last checkpoint are needed, if it was tracked here.

        What fails is logged, as the records are there.
        """
        from analysis.live.needed_at_end import ask_at_end, loaded
        from analysis.records.record_files import read_record, recorded_steps
        from analysis.records.recorded import model_of

        steps = recorded_steps(self.run / "heads")
        if self.needed == 0 or not self._last or self._last != max(steps, default=0):
            return
        try:
            base, last = (read_record(self.run, step) for step in (0, self._last))
            if base is None or last is None:
                return
            load = partial(model_of, self.run, device=device)
            model = loaded(partial(load, last))
            if ask_at_end(self.tracker, last.step, model, partial(load, base), self.needed):
                self.show()
        except Exception:
            log.exception("whether heads are needed could not be measured; all else is there")

    def show(self) -> None:
        """Bring the report, and W&B where it is this process's, up to date."""
        from analysis.records.locks import Lock
        from analysis.reporting.present import present

        with Lock.wait(self.run / "locks" / "present", f"the report of {self.run}", float("inf")):
            present(self.run, self.publisher, known=self.known, alarm=self.alarm)


class Stop:
    """Whether this process was asked to end (SIGINT, SIGTERM); `wait` ends early then."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float) -> None:
        self._asked.wait(seconds)

    @contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Inside, a first signal asks for the end; a second one ends the process as ever."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}

        def ask(number: int, frame: FrameType | None) -> None:
            print("ending after the current checkpoint; once more ends at once", flush=True)
            self._asked.set()
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in numbers:
            signal.signal(number, ask)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def follow(
    watched: Watched, device: str, poll: float, wait: bool = True, stop: Stop | None = None
) -> None:
    """Track what comes, one checkpoint at a time, until nothing more will come.

    Args:
        poll: seconds between two looks.
        wait: False does what is there, and ends.
        stop: asked to end, it does so after the current checkpoint.

    Raises:
        ValueError: some checkpoints could not be tracked.
    """
    stop = stop or Stop()
    source, failed = watched.source, dict[int, str]()
    while not stop.is_asked:
        todo = [found for found in source.pending() if found.step not in failed]
        worked = False
        for found in todo:
            try:
                worked = watched.track(found, device)
            except Gone:
                log.warning(
                    "%s was removed or replaced while it was read; step %d is passed over",
                    found.path,
                    found.step,
                )
            except (ValueError, RuntimeError) as error:
                failed[found.step] = str(error)
                log.error("step %d can't be tracked: %s", found.step, error)
            if worked:
                watched.show()
            if worked or stop.is_asked:
                break  # look again: what came meanwhile may be earlier than the rest
        if not worked:
            if source.is_over(wait) and not (wait and todo):
                break
            stop.wait(poll)
    if not stop.is_asked:
        watched.ask(device)
    # what will never be tracked is said
    for line in source.left_out():
        log.warning("%s", line)
    if failed:
        raise ValueError(f"{len(failed)} checkpoints could not be tracked: {sorted(failed)}")

"""A run that is followed to its end by a command: records, report, loggers, and then the table.

Of several processes that follow one run the first gives loggers their rows, and after it the next
that ends; where the run's own trainer is there, it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from analysis.live.watching import Stop, Watched, follow

if TYPE_CHECKING:
    from analysis.reporting.mirror_protocol import Mirror


def follow_to_the_end(
    watched: Watched, device: str, poll: float, wait: bool, mirrors: list[Mirror]
) -> None:
    """`follow`, until nothing more comes or a signal asks for the end; the table is printed.

    mirrors: the loggers that get the rows.

    Raises:
        ValueError: some checkpoints could not be tracked.
    """
    from analysis.records.record_files import recorded_steps
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import Run

    run = watched.run
    with Stop().on_signals() as stop, _published(watched, mirrors):
        try:
            follow(watched, device, poll, wait, stop)
        finally:
            if recorded_steps(run / "heads"):
                watched.show()
                print(format_table(Run.read(run, watched.known)))
                print(f"report: {run / 'report.html'}", flush=True)


@contextmanager
def _published(watched: Watched, mirrors: list[Mirror]) -> Iterator[None]:
    """Inside, this process gives loggers their rows unless another does; in the end, the rest."""
    from analysis.records.locks import Held, Lock, holder_of
    from analysis.reporting.publish import Publisher, lacking
    from analysis.trajectories.run import Run

    run, directory = watched.run, watched.run / "locks" / "publish"

    def take() -> Lock | None:
        if not mirrors or holder_of(run / "locks" / "run") is not None:
            return None
        try:
            return Lock.take(directory, f"what loggers have of {run}")
        except Held:
            return None

    lock = take()
    if lock is not None:
        watched.publisher = Publisher.start(run, mirrors)
        if watched.publisher is not None:
            watched.publisher.announce()
    try:
        yield
    finally:
        if lock is None and (lock := take()) is not None:
            wanted = lacking(Run.read(run, watched.known), mirrors)
            watched.publisher = Publisher.start(run, wanted)
            if watched.publisher is not None:
                watched.show()
        if watched.publisher is not None:
            watched.publisher.conclude()
        if lock is not None:
            lock.release()

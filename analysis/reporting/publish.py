"""Give the loggers of a run what its local files hold and they have not got yet.

publisher = Publisher.start(run_dir, open_mirrors(report_to, logger))
publisher.update(Run.read(run_dir))
publisher.conclude()
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reporting.mirror_protocol import FINISH, Mirror
from analysis.reporting.rows import TOTALS, Entry, Media, run_rows, shown, training_rows

if TYPE_CHECKING:
    from analysis.trajectories.run import Run

log = logging.getLogger(__name__)


class Publisher:
    """Gives each mirror what it is missing of a run. It writes no record, so it can lose none.

    A mirror that fails is warned of once, and the others get their rows.
    """

    def __init__(self, path: Path, mirrors: Sequence[Mirror]) -> None:
        """mirrors: they have started."""
        self.path = path
        self.mirrors = list(mirrors)
        self.logged: tuple[int, dict[str, Any]] = (0, {})  # by the trainer at the last step
        self._failed: set[str] = set()

    @classmethod
    def start(cls, run: Path, mirrors: Sequence[Mirror]) -> Publisher | None:
        """That of a run that has its run.json; None if no mirror takes rows."""
        found = cls(run, [])
        for mirror in mirrors:
            with found.guarded(mirror):
                if mirror.start(run):
                    found.mirrors.append(mirror)
        return found if found.mirrors else None

    def update(self, run: Run, strict: bool = False) -> list[int]:
        """Log every checkpoint, evaluation and log of the trainer that is missing; their steps.

        strict: what fails in a mirror is raised.
        """
        rows = run_rows(run)
        made: dict[str, tuple[Mapping[str, Any], Media]] = {}  # costly, and the same for all
        given: dict[str, int] = {}
        for mirror in self.mirrors:
            with nullcontext() if strict else self.guarded(mirror):
                for entry in self._new(mirror, rows):
                    if entry.name not in made:
                        made[entry.name] = shown(entry, run)
                    mirror.log(entry, *made[entry.name])
                    given[entry.name] = entry.step
                mirror.seen(run)
        return [row.step for row in rows if row.name in given]

    def training(self, step: int, logged: Mapping[str, Any]) -> None:
        """Log what the trainer has just logged; never raises."""
        totals = {name: logged[name] for name in TOTALS if name in logged}
        before, values = self.logged
        self.logged = step, {**(values if before == step else {}), **logged}
        for mirror in self.mirrors:
            with self.guarded(mirror):
                rows = self._new(mirror, training_rows(*self.logged))
                if totals and mirror.training:
                    mirror.summarise(totals)
                for entry in rows:
                    mirror.log(entry, entry.values, Media())

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to what is shown as the run's configuration; never raises."""
        for mirror in self.mirrors:
            with self.guarded(mirror):
                mirror.configure(values)

    def alert(self, title: str, text: str) -> None:
        """Have the loggers tell the user something; never raises."""
        for mirror in self.mirrors:
            with self.guarded(mirror):
                if mirror.is_ready():
                    mirror.alert(title, text)

    def announce(self) -> None:
        """Print where the run is to be seen."""
        for mirror in self.mirrors:
            with self.guarded(mirror):
                mirror.announce()

    def finish(self, limit: float = FINISH, exit_code: int = 0) -> list[str]:
        """End every mirror; the names of the rows that one of them may not have."""
        return [name for mirror in self.mirrors for name in mirror.finish(limit, exit_code)]

    def conclude(self, limit: float = FINISH, exit_code: int = 0) -> None:
        """Finish every mirror, once more if it lost rows on the way; say what is left.

        Never raises.
        """
        for mirror in self.mirrors:
            with self.guarded(mirror):
                left = mirror.finish(limit, exit_code)
                if mirror.lost() and mirror.is_ready():
                    self._again(mirror)
                    left = mirror.finish(limit, exit_code)
                if left:
                    log.warning(
                        "%s (%s) may not have %d of the rows that it was given; headlab publish %s "
                        "gives it what is missing",
                        *(mirror.label, mirror.reason, len(left)),
                        shlex.quote(f"run={self.path}"),
                    )

    def _again(self, mirror: Mirror) -> None:
        from analysis.trajectories.run import Run

        Publisher(self.path, [mirror]).update(Run.read(self.path))

    def _new(self, mirror: Mirror, rows: Sequence[Entry]) -> list[Entry]:
        if not mirror.is_ready():
            return []
        known = mirror.known(self.path)
        wanted = [row for row in rows if mirror.training or not row.is_trainers]
        return [row for row in wanted if known.get(row.name) != row.digest]

    @contextmanager
    def guarded(self, mirror: Mirror) -> Iterator[None]:
        """Inside, what fails is a warning, the first time: the local records are the truth."""
        try:
            yield
        except Exception as error:
            level = logging.DEBUG if mirror.name in self._failed else logging.WARNING
            self._failed.add(mirror.name)
            text = "%s misses something (%s); the local records are complete"
            log.log(level, text, mirror.label, error)


def lacking(run: Run, mirrors: Sequence[Mirror]) -> list[Mirror]:
    """Those, not started yet, that have not got every row of a run."""
    rows, found = run_rows(run), []
    for mirror in mirrors:
        known = mirror.known(run.path)
        if any(known.get(row.name) != row.digest for row in rows):
            found.append(mirror)
    return found


@contextmanager
def warned() -> Iterator[None]:
    """Inside, what fails is logged: loggers only mirror the local records, which are the truth."""
    try:
        yield
    except Exception as error:
        log.warning("loggers miss something (%s); the local records are complete", error)

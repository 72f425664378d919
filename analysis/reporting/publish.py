"""Give the loggers of a run what its local files hold and they have not got yet.

publisher = Publisher.start(run_dir, open_mirrors(report_to, logger))
publisher.update(Run.read(run_dir))
publisher.conclude()
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from analysis.reporting.mirror_protocol import FINISH, Mirror
from analysis.reporting.rows import TOTALS, Entry, Media, run_rows, shown, training_rows

if TYPE_CHECKING:
    from analysis.trajectories.run import Run

PATIENCE = 1800.0  # seconds for a mirror to take what waits for it
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
        self.behind: dict[str, list[str]] = {}  # mirrors that are, and rows put off by `update`
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

    def update(self, run: Run, strict: bool = False, until: float = 0.0) -> list[int]:
        """Log every checkpoint, evaluation and log of the trainer that is missing; their steps.

        A mirror that is far behind gets the rest at the next update, so that what waits for it
        is never much.

        strict: what fails in a mirror is raised, and one that is behind is waited for. until: so it
        is otherwise, up to this time of `time.monotonic`.
        """
        guarded: Callable[[Mirror], AbstractContextManager[object]]
        guarded = nullcontext if strict else self.guarded
        rows, steps = run_rows(run), []
        wanted: dict[Mirror, dict[str, Entry]] = {}
        for mirror in self.mirrors:
            with guarded(mirror):
                self.behind.pop(mirror.name, None)
                wanted[mirror] = {entry.name: entry for entry in self._new(mirror, rows)}
        for entry in rows:
            made, is_given = None, False  # what is shown is costly, and the same for all
            for mirror in [mirror for mirror, names in wanted.items() if entry.name in names]:
                left = wanted.pop(mirror)
                with guarded(mirror):
                    if not mirror.has_room(PATIENCE if strict else max(0, until - monotonic())):
                        self._put_off(mirror, list(left), strict)
                        continue
                    made = made or shown(entry, run)
                    mirror.log(entry, *made)
                    del left[entry.name]
                    wanted[mirror], is_given = left, True
            if is_given:
                steps.append(entry.step)
        for mirror in wanted:
            with guarded(mirror):
                mirror.seen(run)
        return steps

    def _put_off(self, mirror: Mirror, rows: list[str], strict: bool) -> None:
        self.behind[mirror.name] = rows
        if strict:
            raise ValueError(
                f"{mirror.label} has taken no row for {PATIENCE:g} seconds and misses {len(rows)}; "
                "the local records are complete: start this again"
            )

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
                if rows and not mirror.has_room():
                    self.behind.setdefault(mirror.name, [])  # an update makes up for it
                    continue
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
                put_off = self.behind.get(mirror.name, [])
                if mirror.name in self.behind and exit_code == 0:
                    put_off = self._again(mirror, limit)
                left = mirror.finish(limit, exit_code)
                if mirror.lost() and mirror.is_ready():
                    put_off = self._again(mirror, limit)
                    left = mirror.finish(limit, exit_code)
                if lacks := {*left, *put_off}:
                    log.warning(
                        "%s (%s) may not have %d of the rows of this run; headlab publish %s gives "
                        "it what is missing",
                        mirror.label,
                        *("it is far behind" if put_off else mirror.reason, len(lacks)),
                        shlex.quote(f"run={self.path}"),
                    )

    def _again(self, mirror: Mirror, limit: float) -> list[str]:
        """Give a mirror what it misses, in `limit` seconds; the rows that it still has not got."""
        from analysis.trajectories.run import Run

        publisher = Publisher(self.path, [mirror])
        publisher.update(Run.read(self.path), until=monotonic() + limit)
        return publisher.behind.get(mirror.name, [])

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

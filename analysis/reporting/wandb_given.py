"""Which rows of a run W&B has: RUN/wandb-published.json, and its own files since.

Offline, W&B has a row when it is in one of its files. Online, when its server has it: after a
session that finished; of one that did not, the rows before the step at which the next session is
told to begin; and all of a file that `wandb sync` has uploaded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from analysis.files import read_json, write_json
from analysis.reporting.wandb_files import Row, is_offline, is_uploaded, rows, sessions

FILE = "wandb-published.json"
log = logging.getLogger(__name__)


@dataclass
class _Saved:
    """The form of FILE: as of Given."""

    online: dict[str, str] = field(default_factory=dict)
    offline: dict[str, str] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)


@dataclass
class Given:
    """Name of a row -> its digest, by mode (online, offline); settled: the sessions counted.

    open: rows of online sessions of which it is not known how much the server has.
    """

    online: dict[str, str] = field(default_factory=dict)
    offline: dict[str, str] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)
    open: dict[str, list[Row]] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> Given:
        """What is known of a run without asking the server."""
        given = cls()
        try:
            given = cls(**vars(read_json(run / FILE, _Saved)))
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("%s; it counts for nothing, W&B's own files do", error)
        for session in sessions(run):
            if session.name in given.settled:
                continue
            found_rows = rows(session)
            given._add("offline", found_rows)
            if is_uploaded(session):
                given._add("online", found_rows)
                given.settled.append(session.name)
            elif not is_offline(session) and found_rows:
                given.open[session.name] = found_rows
        return given

    def of(self, mode: str) -> dict[str, str]:
        return self.online if mode == "online" else {**self.offline, **self.online}

    def settle(self, starting_step: int) -> None:
        """Count what the server has of open sessions: it has told a new one where to begin."""
        for name, found in self.open.items():
            self._add("online", [row for row in found if row.step < starting_step])
            self.settled.append(name)
        self.open = {}

    def finished(self, session: Path) -> None:
        """Count all of a session that has finished."""
        found = rows(session)
        self._add("offline", found)
        if not is_offline(session):
            self._add("online", found)
            self.settled.append(session.name)
            self.open.pop(session.name, None)

    def write(self, run: Path) -> None:
        content = {"online": self.online, "offline": self.offline, "settled": self.settled}
        write_json(run / FILE, content)

    def _add(self, mode: str, found: list[Row]) -> None:
        getattr(self, mode).update((row.name, row.digest) for row in found)

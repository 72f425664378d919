"""The W&B run of a run of ours, as a mirror: a process of its own, and an account of its rows.

wandb_mirror.py starts the process, wandb_given.py says which rows W&B has. It is never waited for
but at its start and its end, and then not for long. A W&B that fails is started again, a few times.
"""

from __future__ import annotations

import base64
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.records.run_file import RunFile, configuration
from analysis.reporting.mirror_protocol import FINISH, Mirror
from analysis.reporting.rows import Entry, Media, run_rows
from analysis.reporting.wandb_files import MARK
from analysis.reporting.wandb_given import Given
from analysis.reporting.wandb_mirror import WandbMirror, resolve_mode
from analysis.reporting.wandb_view import LIMIT, View, is_wanted

if TYPE_CHECKING:
    from analysis.trajectories.run import Run

TRIES = 3  # how often W&B is started again in a run
log = logging.getLogger(__name__)


class WandbRun(Mirror):
    """session: the process, once it is started. sent: what it was given, name -> digest."""

    name, label = "wandb", "W&B"

    def __init__(
        self,
        mode: str = "auto",
        project: str | None = None,
        strict: bool = False,
        workspace: bool | None = None,
    ) -> None:
        """
        mode: auto, online, offline or disabled. project: another one than the run names. strict:
        offline is no way out of a server that can't be reached. workspace: make a view of the
        project (wandb_view.py); None: where that is possible.
        """
        self.workspace = workspace
        self.view: View | None = None
        self.last: Run | None = None
        self.mode = mode
        self.project = project
        self.strict = strict
        self.tries = 0
        self.path = Path()
        self.session: WandbMirror | None = None
        self.given = Given()
        self.sent: dict[str, str] = {}

    def start(self, run: Path) -> bool:
        """Start W&B, or continue its run; False if it is switched off or does not start.

        Raises:
            ValueError: strict, and W&B does not start.
        """
        file = RunFile.read(run)
        project = self.project or file.wandb_project
        begin = WandbMirror.begin if self.strict else WandbMirror.start
        session = begin(run, file.name, project, self.mode, configuration(run))
        if session is None:
            return False
        self.hold(run, session)
        return True

    def hold(self, run: Path, session: WandbMirror) -> None:
        """Take a session that has started, and what it says of the ones before it."""
        self.path, self.session, self.place = run, session, str(session.files)
        self.sent = {}
        self.given = Given.read(run)
        if session.mode == "online":
            self.given.settle(session.starting_step)
            self.given.write(run)

    @property
    def running(self) -> WandbMirror:
        assert self.session is not None, "it is started"
        return self.session

    def known(self, run: Path) -> Mapping[str, str]:
        if self.session is None:
            mode = self.mode if self.strict else resolve_mode(self.mode)
            return Given.read(run).of(mode)
        return {**self.given.of(self.session.mode), **self.sent}

    def log(self, step: Entry, values: Mapping[str, Any], media: Media) -> None:
        row = {step.axis: step.step, MARK: step.mark, **values}
        pictures = {key: base64.b64encode(png).decode() for key, png in media.pictures.items()}
        self.running.log(row, pictures, media.tables)
        self.sent[step.name] = step.digest

    def finish(self, limit: float = FINISH, exit_code: int = 0) -> list[str]:
        """End the session and count what W&B has; see `WandbMirror.finish`."""
        view, self.view = self.view, None
        whole = self.running.finish(limit, exit_code)
        if view is not None:
            view.end(self.last if whole else None, min(limit, LIMIT))
        self.reason = self.running.reason
        self.given = Given.read(self.path)
        if whole:
            self.given.finished(self.running.files)
        self.given.write(self.path)
        return self._left(self.running.mode)

    def seen(self, run: Run) -> None:
        session = self.running
        if self.view is None and is_wanted(self.workspace, session.mode) and session.entity:
            self.view = View(self.path, session.entity, session.project)
        self.last = run
        if self.view is not None:
            self.view.begin(run)

    def lost(self) -> bool:
        return bool(self._left("offline"))

    def _left(self, mode: str) -> list[str]:
        done = self.given.of(mode)
        return [name for name, digest in self.sent.items() if done.get(name) != digest]

    def is_ready(self) -> bool:
        """Whether W&B takes rows; one that has failed is started again, until `TRIES`."""
        if self.running.is_alive:
            return True
        if self.tries >= TRIES:
            return False
        self.tries += 1
        self.finish()
        reason, self.mode = self.reason, self.running.mode
        self.strict = False
        works = self.start(self.path)
        what = "and is started again"
        if not works or self.tries >= TRIES:
            word = shlex.quote(f"run={self.path}")
            what = f"for the last time; headlab publish {word} gives it what it misses"
        log.warning("W&B ended (%s) %s", reason, what)
        return works

    def has_room(self, wait: float = 0.0) -> bool:
        return self.running.has_room(wait)

    def announce(self) -> None:
        self.running.announce()

    def configure(self, values: Mapping[str, Any]) -> None:
        self.running.configure(values)

    def summarise(self, values: Mapping[str, Any]) -> None:
        self.running.summarise(values)

    def alert(self, title: str, text: str) -> None:
        self.running.alert(title, text)


def missing(run: Run, mode: str, given: Given | None = None) -> list[Entry]:
    """What W&B has not got of a run in a mode (online or offline), by step.

    Online, what a session that did not finish has given counts as missing.
    """
    done = (given or Given.read(run.path)).of(mode)
    return [entry for entry in run_rows(run) if done.get(entry.name) != entry.digest]

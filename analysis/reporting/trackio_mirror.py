"""trackio as a mirror: the run that a trainer opened in this process, or one of our own.

Its page is local and needs no account: `trackio show --project PROJECT`. A run of our own is named
as the W&B run of the same directory, so that a resumed run goes on in it. In a run that is a
trainer's, rows carry no step but in `heads/step`: trackio counts the trainer's on from the last.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.records.run_file import RunFile, configuration
from analysis.records.secrets import redact
from analysis.reporting.bounded import within
from analysis.reporting.ledger import Ledger
from analysis.reporting.mirror_protocol import FINISH, Mirror
from analysis.reporting.rows import Entry, Media
from analysis.reporting.wandb_mirror import has_id, run_id

START = 30.0  # seconds that trackio has to start in


def open_trackio() -> Any:
    """The trackio run that is open in this process, or None."""
    trackio = sys.modules.get("trackio")  # whoever opened one has imported it
    return None if trackio is None else trackio.context_vars.current_run.get()


def database(project: str) -> str:
    """Where the rows of a project are: a Space or a server, or a file of this machine."""
    from trackio.sqlite_storage import SQLiteStorage

    remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
    return remote.partition("?")[0] if remote else str(SQLiteStorage.get_project_db_path(project))


class Trackio(Mirror):
    """session: the run that is open, if it is a trainer's. project: of one of our own."""

    name, label = "trackio", "trackio"

    def __init__(self, session: Any = None, project: str | None = None) -> None:
        self.session = session
        self.is_own = self.training = session is None
        self.project = project
        self.ledger: Ledger | None = None

    def start(self, run: Path) -> bool:
        if not self.is_own:
            self.ledger = Ledger(run, f"trackio:{self.session.project}/{self.session.id}")
            self.ledger.read()
            return True
        import trackio

        file = RunFile.read(run)
        project = self.project or file.wandb_project
        name = run_id(run, file.name)
        self.ledger = self._ledger(run)
        self.place = f"{name} in {database(project)}"
        config = {k: v for k, v in redact(configuration(run)).items() if not k.startswith("_")}
        quiet = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False}
        how: dict[str, Any] = {"project": project, "name": name, "config": config, **quiet}
        self.session = within(START, lambda: trackio.init(**how, resume="allow"), "trackio's start")
        return True

    def _ledger(self, run: Path) -> Ledger:
        """What a run of our own has; nothing, if its database was removed."""
        file = RunFile.read(run)
        where = database(self.project or file.wandb_project)
        ledger = Ledger(run, f"trackio:{where}/{run_id(run, file.name)}")
        if not where.startswith("/") or Path(where).exists():
            ledger.read()
        return ledger

    def known(self, run: Path) -> Mapping[str, str]:
        if self.ledger is not None:
            return self.ledger.rows
        return self._ledger(run).rows if has_id(run) else {}

    def log(self, step: Entry, values: Mapping[str, Any], media: Media) -> None:
        import trackio
        from PIL import Image

        assert self.ledger is not None, "it is started"
        pictures = {
            name: trackio.Image(Image.open(io.BytesIO(png))) for name, png in media.pictures.items()
        }
        tables = {
            name: trackio.Table(columns=titles, data=rows)
            for name, (titles, rows) in media.tables.items()
        }
        row = {step.axis: step.step, **values, **pictures, **tables}
        if self.is_own:
            self.session.log(row, step=step.step)
        else:
            self.session.log(row)
        self.ledger.add(step.name, step.digest)

    def is_ready(self) -> bool:
        """Whether the run is open still."""
        return self.is_own or open_trackio() is self.session

    def finish(self, limit: float = FINISH, exit_code: int = 0) -> list[str]:
        if self.is_own and self.session is not None:
            within(limit, self.session.finish, "trackio's end")
            self.session = None
        return []

    def alert(self, title: str, text: str) -> None:
        if self.session is not None:
            self.session.alert(title, text)

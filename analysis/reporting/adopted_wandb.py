"""The W&B run that a trainer opened in this process, as a mirror: it gets the rows of heads too.

Rows are logged without `step=`, with a step metric of their own for each value. The run is the
trainer's: it is neither ended here nor configured.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reporting.ledger import Ledger
from analysis.reporting.mirror_protocol import FINISH, Mirror
from analysis.reporting.rows import Entry, Media
from analysis.reporting.wandb_files import MARK, rows, sessions_of
from analysis.reporting.wandb_mirror import silent_server
from analysis.reporting.wandb_view import LIMIT, View, is_wanted
from analysis.reporting.wandb_worker import TITLE, log

if TYPE_CHECKING:
    from wandb import Run as WandbSession

    from analysis.trajectories.run import Run


def open_wandb() -> WandbSession | None:
    """The W&B run that is open in this process, if there is one that logs anything."""
    wandb = sys.modules.get("wandb")  # whoever opened one has imported it
    run = getattr(wandb, "run", None)
    return None if run is None or run.disabled else run


class AdoptedWandb(Mirror):
    """The trainer's own run. What it has is in W&B's files of it, or where these are elsewhere
    (a run that was resumed on another machine) in a ledger."""

    name, label, training = "wandb", "W&B", False

    def __init__(self, session: WandbSession, workspace: bool | None = None) -> None:
        """workspace: make a view of the project (wandb_view.py); None: where that is possible."""
        self.session = session
        self.workspace = workspace
        self.view: View | None = None
        self.last: Run | None = None
        self.defined: set[str] = set()
        self.ledger: Ledger | None = None

    def start(self, run: Path) -> bool:
        self.ledger = Ledger(run, f"wandb:{self.session.id}")
        found: dict[str, str] = {}
        for session in sessions_of(Path(self.session.dir).parent):
            found.update((row.name, row.digest) for row in rows(session))
        self.ledger.rows = found or self.ledger.read()
        mode = "offline" if self.session.offline else "online"
        if is_wanted(self.workspace, mode) and self.session.entity:
            self.view = View(run, self.session.entity, self.session.project)
        return True

    def known(self, run: Path) -> Mapping[str, str]:
        return {} if self.ledger is None else self.ledger.rows

    def is_ready(self) -> bool:
        """Whether the run is the one that is open still."""
        return open_wandb() is self.session

    def log(self, step: Entry, values: Mapping[str, Any], media: Media) -> None:
        assert self.ledger is not None, "it is started"
        pictures = {key: base64.b64encode(png).decode() for key, png in media.pictures.items()}
        row = {step.axis: step.step, MARK: step.mark, **values}
        message = {"row": row, "pictures": pictures, "tables": media.tables}
        log(self.session, message, self.defined)
        self.ledger.add(step.name, step.digest)

    def finish(self, limit: float = FINISH, exit_code: int = 0) -> list[str]:
        """The view; the trainer ends its run."""
        if self.view is not None:
            self.view.end(None if silent_server() else self.last, min(limit, LIMIT))
            self.view = None
        return []

    def seen(self, run: Run) -> None:
        self.last = run
        if self.view is not None:
            self.view.begin(run)

    def alert(self, title: str, text: str) -> None:
        self.session.alert(title[:TITLE], text, "WARN")

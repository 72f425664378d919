"""What shows the rows of a run: the methods that W&B, trackio and TensorBoard have in common.

A mirror may fail in any call; `Publisher` (publish.py) sees to it that this harms neither the run
nor the other mirrors. The local records are the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from analysis.reporting.rows import Entry, Media
    from analysis.trajectories.run import Run

FINISH = 60.0  # seconds to take what is left at the end of a run


class Mirror(Protocol):
    """What shows a run's rows: three methods, and others that may do nothing.

    name: as in `report_to`. label: as people write it. training: whether it takes what the trainer
    logs; where the trainer gives it that itself, it does not. reason: why it failed, if it did.
    place: where the rows are, once it has started.
    """

    name: str
    label: str
    training: bool = True
    reason: str = "it failed"
    place: str = ""

    def start(self, run: Path) -> bool:
        """Open it for a run that has its run.json; whether it takes rows."""
        ...

    def log(self, step: Entry, values: Mapping[str, Any], media: Media) -> None:
        """Show a row: its step (and which row it is), values and media."""
        ...

    def finish(self, limit: float = FINISH, exit_code: int = 0) -> list[str]:
        """Take what is left, in `limit` seconds; the names of rows that it may not have."""
        ...

    def known(self, run: Path) -> Mapping[str, str]:
        """The rows of a run that it has: name -> digest. Also before it starts."""
        return {}

    def is_ready(self) -> bool:
        """Whether it takes rows now; one that has died may start again here."""
        return True

    def has_room(self, wait: float = 0.0) -> bool:
        """Whether it takes another row, now or within `wait` seconds, or is too far behind."""
        return True

    def lost(self) -> bool:
        """Whether it has lost rows that it would take once more, after it has finished."""
        return False

    def seen(self, run: Run) -> None:
        """A run has been read, and what it missed was given."""
        return

    def announce(self) -> None:
        """Print where the run is to be seen."""
        return

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to what is shown as the run's configuration."""
        return

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set values of the run as a whole."""
        return

    def alert(self, title: str, text: str) -> None:
        """Tell the user something."""
        return

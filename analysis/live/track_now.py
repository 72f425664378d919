"""Track at the next step, asked for while the training goes on.

    touch OUTPUT/track-now      or      kill -USR1 PID

The signal is heeded only where nobody else waits for it (submitit and Slurm scripts do).
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType

from analysis.tracking import distributed

FILE = "track-now"


class TrackNow:
    """Hears that somebody asks, from `start` to `stop`."""

    def __init__(self) -> None:
        self._asked = self._listens = False
        self._file = Path(FILE)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def start(self, run: Path) -> None:
        """Listen, and look for the file in the directory of a run."""
        self._file = run / FILE
        free = signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        if free and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, self._handle)
            self._listens = True

    def stop(self) -> None:
        """Give the signal its handler back."""
        if self._listens and signal.getsignal(signal.SIGUSR1) == self._handle:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        self._listens = False

    def heed(self) -> bool:
        """Whether somebody has asked since the last call; to be called by all ranks."""
        asked, self._asked = self._asked, False
        if distributed.rank() == 0 and self._file.exists():
            self._file.unlink(missing_ok=True)
            asked = True
        return distributed.any_rank(asked)

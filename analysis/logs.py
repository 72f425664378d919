"""What is logged in the processes of this project."""

from __future__ import annotations

import logging
import sys

# they log each request, or each file that they lock
CHATTY = ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "filelock", "fsspec", "asyncio")


class _Shown(logging.StreamHandler):
    """Writes to what standard error is at the time, which whoever calls us may exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def show_messages(level: int = logging.INFO) -> None:
    """Show messages from `level` on, without their origin; of libraries that chat, warnings."""
    logging.basicConfig(level=level, format="%(message)s", handlers=[_Shown()])
    quiet_libraries()


def quiet_libraries() -> None:
    """The same of libraries, where something else (Hydra) has set up the logging."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)

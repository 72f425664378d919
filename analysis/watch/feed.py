"""What a page lacks of the runs that it shows: each part of them has the version it is of.

A version is `EPOCH.NUMBER`: which process counts, and how often something had changed by then. A
page that says its version is sent the parts that changed since; one of another process, all.
"""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path
from typing import Any

from analysis.reporting.dashboard.page import run_data
from analysis.watch.listing import Listing, Mark, Seen

PAUSE = 1.0  # seconds between two looks at the files of the runs
SHARE = 10  # a look follows after this many times what the one before took


class Feed:
    """The data of one run (analysis/reporting/dashboard/form.py), by parts."""

    def __init__(self) -> None:
        self._epoch, self._number = secrets.token_hex(4), 0
        self._of: tuple[Mark, str] | None = None
        self._parts: dict[str | int, tuple[int, int, Any]] = {}  # -> hash, number, content
        self._lock = threading.Lock()

    def update(self, seen: Seen) -> str:
        """Take in how a run is now, if it is not as it was; the version then."""
        assert seen.run is not None
        with self._lock:
            if self._of != (seen.mark, seen.state):
                data: dict[str, Any] = {**run_data(seen.run), "state": seen.state}
                steps = {each["step"]: each for each in data.pop("checkpoints")}
                self._number += 1
                self._parts = {
                    name: self._part(name, content) for name, content in {**data, **steps}.items()
                }
                self._of = seen.mark, seen.state
            return f"{self._epoch}.{self._number}"

    def _part(self, name: str | int, content: Any) -> tuple[int, int, Any]:
        # which checkpoints have patterns changes as others come
        own = {**content, "patterns": None} if isinstance(name, int) else content
        held = hash(repr(own))
        before = self._parts.get(name)
        return held, before[1] if before and before[0] == held else self._number, content

    def since(self, version: str) -> dict[str, Any]:
        """The parts that a page of a version lacks; of `checkpoints` as well only those."""
        epoch, _, number = version.partition(".")
        known = int(number) if epoch == self._epoch and number.isdecimal() else 0
        with self._lock:
            new = {name: part[2] for name, part in self._parts.items() if part[1] > known}
        data: dict[str, Any] = {name: part for name, part in new.items() if isinstance(name, str)}
        steps = [part for name, part in new.items() if isinstance(name, int)]
        return {**data, "checkpoints": steps} if steps else data


class Watched:
    """The runs below a directory with their feeds, for several threads; looked at together.

    Raises:
        ValueError: there is no such directory.
    """

    def __init__(self, root: str | Path) -> None:
        self._listing = Listing(root)
        self._feeds: dict[Path, Feed] = {}
        self._lock = threading.Lock()
        self._next, self._runs = 0.0, list[Seen]()

    @property
    def root(self) -> Path:
        return self._listing.root

    def look(self) -> list[Seen]:
        """The runs as they are now, or as they were a moment ago."""
        with self._lock:
            if (began := time.monotonic()) >= self._next:
                self._runs = self._listing.look()
                now = time.monotonic()
                self._next = now + max(PAUSE, SHARE * (now - began))
            return self._runs

    def find(self, name: str) -> Seen | None:
        """The run of a name, if there is one."""
        return next((seen for seen in self.look() if seen.name == name), None)

    def feed(self, seen: Seen) -> Feed:
        """That of a run, which can be read."""
        return self._feeds.setdefault(seen.path, Feed())

    def rows(self) -> list[dict[str, str]]:
        """The runs as texts, for a list."""
        return [_row(seen) for seen in self.look()]


def _row(seen: Seen) -> dict[str, str]:
    about = {"name": seen.name, "state": seen.state, "why": seen.why}
    if seen.run is None:
        return about
    score, heads, called, faithfulness = seen.figures
    return {
        **about,
        "kind": seen.run.file.kind,
        "step": str(seen.step),
        "checkpoints": str(len(seen.run.rows)),
        "score": score,
        "heads": heads,
        "called": called,
        "faithfulness": faithfulness,
    }

"""The curated W&B view of a run's project (workspace.py), made beside the run, in its own process.

It is made when there is something to see, and made anew at the end, when it is known which heads
moved most; only if nobody has changed it since. RUN/wandb-view.json holds the hash of what this run
saved.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.files import read_json, write_json
from analysis.reporting.rows import curve_heads, curve_name

if TYPE_CHECKING:
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Point

FILE = "wandb-view.json"
LIMIT = 20.0  # seconds that W&B has to take the view in
MOST = 10  # heads that get a panel each
SCRIPT = Path(__file__).with_name("workspace.py")
log = logging.getLogger(__name__)


def is_wanted(workspace: bool | None, mode: str) -> bool:
    """Whether a view is made: as told, or (None) where W&B is online and can take one.

    Raises:
        ValueError: it is asked for, and what makes it is not installed.
    """
    installed = find_spec("wandb_workspaces") is not None
    if workspace and not installed:
        raise ValueError(
            "workspace: wandb-workspaces is not installed; pip install 'headlab[views]'"
        )
    return mode == "online" and installed and workspace is not False


def moved_most(points: Sequence[Point], curves: int, most: int = MOST) -> list[str]:
    """Of the heads that have a curve, those whose importance moved most, as head/L05H03.

    How far one moved is the difference between its highest and its lowest importance.
    """

    def span(head: int) -> float:
        found = [float(point.record.importance[head]) for point in points]
        return max(found) - min(found)

    heads = sorted(curve_heads(points, curves), key=lambda head: -span(head))[:most]
    return [curve_name(points[-1].record.graph, head) for head in heads]


@dataclass
class _Saved:
    """The form of FILE."""

    project: str
    digest: str | None = None


class View:
    """That of a W&B project, as one run sees it. No call raises or waits longer than it says."""

    def __init__(self, run: Path, entity: str, project: str) -> None:
        self.path = run
        self.entity = entity
        self.project = project
        self.did = self.reason = ""
        self._work: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None

    def begin(self, run: Run) -> None:
        """Save the view, in the background, once; `end` waits for it."""
        if self._work is None and len(run.points) > 1:
            self._start(run)

    def end(self, run: Run | None, limit: float = LIMIT) -> str:
        """Save it as it is to be in the end; what was done: made, updated, left, or nothing.

        run: None where its server does not answer, which is not asked again.
        """
        if run is None:
            self._kill()
        self._wait(limit)
        if run is None or not run.points:
            return ""
        self._start(run)
        self._wait(limit)
        if self.did in ("made", "updated"):
            log.info("W&B view of %s: headlab: %s (%s)", self.project, self.project, self.did)
        return self.did

    def _start(self, run: Run) -> None:
        tasks = {"held_out" for row in run.rows if row.evaluation is not None}
        tasks |= {task for row in run.rows for task in row.tasks}
        signal = run.file.signal
        how = {
            "entity": self.entity,
            "project": self.project,
            "title": f"headlab: {self.project}",
            "signal": None if signal is None else f"train/{signal}",
            "curves": moved_most(run.points, run.file.max_head_curves),
            "tasks": sorted(tasks),
            "digest": self._digest(),
        }
        self.did, self.reason = "", "it has not ended in time"
        self._work = threading.Thread(target=self._save, args=(how,), daemon=True)
        self._work.start()

    def _digest(self) -> str | None:
        try:
            saved = read_json(self.path / FILE, _Saved)
        except (FileNotFoundError, ValueError):
            return None
        return saved.digest if saved.project == f"{self.entity}/{self.project}" else None

    def _save(self, how: dict[str, Any]) -> None:
        """Run the process, and note what it has done."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            out, _ = self._process.communicate(json.dumps(how), timeout=LIMIT)
            reply = json.loads(out.strip().splitlines()[-1])
            self.reason = reply.get("failed", "")
            self.did = reply.get("did", "")
            if reply.get("digest"):
                saved = {"project": f"{self.entity}/{self.project}", "digest": reply["digest"]}
                write_json(self.path / FILE, saved)
        except Exception as error:
            self.reason = str(error) or type(error).__name__
        finally:
            self._kill()

    def _wait(self, limit: float) -> None:
        if self._work is None:
            return
        self._work.join(limit)
        if self._work.is_alive():
            self._kill()
        if self.reason:
            log.info("the W&B view of %s is not saved: %s", self.project, self.reason)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

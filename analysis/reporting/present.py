"""Bring what shows a run up to date with its files: trajectory.json, report.html, W&B.

run = Run.read(path)
write_pages(run)
publisher.update(run)
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.files import check_claims
from analysis.reporting.publish import warned
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import write_trajectory

if TYPE_CHECKING:
    from analysis.reporting.alerts import Alarm
    from analysis.reporting.publish import Publisher
    from analysis.trajectories.trajectory import Known

log = logging.getLogger(__name__)


def write_pages(run: Run) -> None:
    """Write trajectory.json and report.html of a run; nothing of one that has nothing to show."""
    from analysis.reporting.report import write_report

    if run.points:
        write_trajectory(run.path / "trajectory.json", run.points)
    if run.points or any(row.evaluation is not None or row.tasks for row in run.rows):
        write_report([run], run.path / "report.html")


def present(
    path: Path,
    publisher: Publisher | None = None,
    pages: bool = True,
    known: Known | None = None,
    alarm: Alarm | None = None,
) -> None:
    """Read a run, publish what is new and write its pages.

    Never raises: what fails is logged, and the records, which are the truth, are written already.

    publisher: None where W&B is off, or another process gives it its rows. pages: False where
    another process writes them. known: see `analysis.trajectories.trajectory.trajectory`. alarm:
    what looks at the rows.
    """
    check_claims()
    try:
        run = Run.read(path, known)
        if publisher is not None:
            with warned():
                publisher.update(run)
        if alarm is not None:
            with warned():
                alarm.look(run, publisher)
        if pages:
            write_pages(run)
    except Exception:
        log.exception("the report of %s could not be written; its records are safe", path)

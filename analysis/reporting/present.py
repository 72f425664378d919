"""Bring what shows a run up to date with its records: trajectory.json, report.html, W&B."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.reporting.publish import Publisher

log = logging.getLogger(__name__)


def present(publisher: Publisher, page: bool = True) -> None:
    """Publish what is new and, with `page`, write trajectory.json and report.html of the run.

    Never raises: what fails is logged, and the records, which are the truth, are written already.
    """
    from analysis.records.evaluations import evaluated_tasks, read_evaluations
    from analysis.reporting.report import write_report
    from analysis.trajectories.run import tracked_points
    from analysis.trajectories.trajectory import write_trajectory

    run = publisher.run
    try:
        points = tracked_points(run, publisher.known)
        publisher.update(points)
        if not page:
            return
        if points:
            write_trajectory(run / "trajectory.json", points)
        if points or read_evaluations(run) or evaluated_tasks(run):
            write_report([run], run / "report.html", publisher.known)
    except Exception:
        log.exception("the report of %s could not be written; its records are safe", run)

"""The runs of a demo: started or continued one after the other, and shown on one page."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from train.program import program

if TYPE_CHECKING:
    from analysis.trajectories.run import Run


def train(overrides: list[str], kind: str) -> None:
    """One run, or what is left of it.

    Raises:
        SystemExit: with the status of a run that failed.
    """
    asked = [f"train={kind}", "resume=auto", "resources.processes=1", *overrides]
    status = subprocess.run(program("launch", *asked)).returncode
    if status:
        raise SystemExit(status)


def report_path(directories: list[Path]) -> Path:
    """The page of several runs, beside the first."""
    return directories[0].parent / f"report-{'-'.join(run.name for run in directories)}.html"


def page_of(directories: list[Path], findings: list[str] | None = None) -> list[Run]:
    """Read the runs and write their page, which begins with the findings."""
    from analysis.reporting.report import write_report
    from analysis.trajectories.run import read_runs

    read = read_runs(directories)
    write_report(read, report_path(directories), findings or [])
    return read


def tell_places(directories: list[Path]) -> None:
    """Print where the page and the W&B runs are."""
    print(f"\nreport:  {report_path(directories)}")
    for directory in directories:
        for offline in sorted(directory.glob("wandb/*run-*")):
            print(f"W&B run: {offline}")

"""A run as it is read from its directory: its checkpoints, signal, evaluations and roles."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from analysis.heads.roles import Roles, read_roles, roles_path
from analysis.intervals import Association
from analysis.records.evaluations import evaluated_tasks, read_evaluations, read_interventions
from analysis.records.needed import Needed, read_needed
from analysis.records.record import Record
from analysis.records.record_files import read_steps
from analysis.records.run_file import RunFile, config_text
from analysis.records.training_log import read_metrics, series
from analysis.trajectories.reference import Reference, read_reference
from analysis.trajectories.trajectory import Known, Point, associations, trajectory

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One checkpoint.

    invalid: why the checkpoint could not be measured.
    signal: mean of the loss or reward logged after the previous checkpoint, up to this one; None
        if there was none. evaluation: held-out pass@1 as written. point: heads against the base.
    """

    step: int
    signal: float | None
    evaluation: dict[str, Any] | None
    point: Point | None
    invalid: str | None = None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)  # benchmark -> as evaluation


@dataclass(frozen=True)
class Run:
    """Everything that is read from a run's directory, once.

    label: its name, with its path where several are shown whose names are equal.
    file: its run.json. config_text: its config.yaml, if there is one.
    rows: every checkpoint that has a record or an evaluation, by step.
    logged: step and value of the signal (loss, reward), as the trainer logged it.
    interventions: results of `headlab evaluate` on its checkpoints.
    needed: what taking called heads out did, by step.
    roles: of the heads at the last record; None if they were not measured.
    reference: a second model that the checkpoints are compared with, if there is one.
    """

    path: Path
    label: str
    file: RunFile
    config_text: str | None
    rows: list[Row]
    logged: list[tuple[int, float]]
    interventions: dict[str, dict[str, Any]] = field(default_factory=dict)
    needed: dict[int, Needed] = field(default_factory=dict)
    roles: Roles | None = None
    reference: Reference | None = None

    @classmethod
    def read(cls, path: str | Path, known: Known | None = None) -> Run:
        """Read a run. It may have no checkpoint yet, and then has no rows.

        known: see `analysis.trajectories.trajectory.trajectory`.

        Raises:
            ValueError: the directory holds no run (see `RunFile.read`), or records that can't be
                read or compared.
        """
        path = Path(path)
        file = RunFile.read(path)
        records, invalid = read_steps(path)
        points = _trajectory(path, records, file, known)
        logged = []
        if file.signal is not None:
            logged = series(path, _or_warn(lambda: read_metrics(path)) or {}, file.signal)
        return cls(
            path=path,
            label=file.name,
            file=file,
            config_text=_or_warn(lambda: config_text(path)),
            rows=_rows(path, points, logged, invalid),
            logged=logged,
            interventions=read_interventions(path),
            needed=read_needed(path),
            roles=roles_at(path, points[-1]) if points else None,
            reference=_or_warn(lambda: read_reference(path, [p.record for p in points])),
        )

    @property
    def signal_name(self) -> str | None:
        """`loss`, `reward`, ..., or None where nothing was trained."""
        return self.file.signal

    @property
    def points(self) -> list[Point]:
        """The trajectory; empty, which is warned of, if the base is not among the records."""
        return [row.point for row in self.rows if row.point is not None]

    @property
    def associations(self) -> dict[str, Association]:
        """Of the signal with each curve of the heads."""
        return associations(self.points, [r.signal for r in self.rows if r.point is not None])

    def final_heads(self, state: str) -> list[str]:
        """Heads in a raw state at the last record, as L3H2; none if no head was tracked."""
        return self.points[-1].names(self.points[-1].masks[state]) if self.points else []


def read_runs(paths: Sequence[str | Path], known: Known | None = None) -> list[Run]:
    """Read the runs that one page or text shows, each label once (see `Run.read`)."""
    runs = [Run.read(path, known) for path in paths]
    names = [run.label for run in runs]
    return [
        run if names.count(run.label) == 1 else replace(run, label=f"{run.label} ({run.path})")
        for run in runs
    ]


def checkpoint_rows(run: Run) -> list[Row]:
    """The rows of a run that is to be shown.

    Raises:
        ValueError: it has no checkpoint yet.
    """
    if not run.rows:
        raise ValueError(
            f"{run.path} has neither heads/step-* nor evaluations/step-*; wait for a checkpoint, "
            "or switch on tracking or evaluation and train again"
        )
    return run.rows


def roles_at(run: Path, point: Point) -> Roles | None:
    """The roles at a point; None, with a warning, if they can't be read or are of other heads."""
    found = _or_warn(lambda: read_roles(run, point.step))
    if found is not None and found.heads != point.names(torch.ones_like(point.first).bool()):
        log.warning("left out: %s is of other heads", roles_path(run, point.step))
        return None
    return found


def _or_warn(read: Callable[[], T]) -> T | None:
    """What is read; None, with a warning, if it can't be: it costs nothing else."""
    try:
        return read()
    except ValueError as error:
        log.warning("left out: %s", error)
        return None


def _trajectory(
    run: Path, records: Sequence[Record], file: RunFile, known: Known | None
) -> list[Point]:
    if records and records[0].step != 0:
        log.warning("%s has no record of step 0, the base; no head's state is known", run)
        return []
    return trajectory(records, file.fdr, file.hysteresis, known) if records else []


def _rows(
    run: Path,
    points: Sequence[Point],
    signal: Sequence[tuple[int, float]],
    invalid: dict[int, str],
) -> list[Row]:
    measured, evaluations = {point.step: point for point in points}, read_evaluations(run)
    tasks = {task: read_evaluations(run, task) for task in evaluated_tasks(run)}
    steps = sorted({*measured, *evaluations, *invalid, *(s for t in tasks.values() for s in t)})
    rows = []
    for previous, step in zip([0, *steps], steps, strict=False):
        logged = [value for s, value in signal if previous < s <= step]
        mean = _mean(logged) if logged else None
        scored = {task: scores[step] for task, scores in tasks.items() if step in scores}
        rows.append(
            Row(step, mean, evaluations.get(step), measured.get(step), invalid.get(step), scored)
        )
    return rows


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except (OverflowError, ValueError):  # beyond all numbers, or infinities of both signs
        return math.nan

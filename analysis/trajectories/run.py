"""A run as it is read from its directory: its checkpoints, signal, evaluations and roles."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.heads.roles import Roles, read_roles
from analysis.intervals import Association
from analysis.records.evaluations import evaluated_tasks, read_evaluations, read_interventions
from analysis.records.record import invalid_steps, read_records
from analysis.records.run_file import RunFile, config_text
from analysis.records.training_log import read_metrics
from analysis.trajectories.trajectory import Known, Point, associations, trajectory

log = logging.getLogger(__name__)


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


def tracked_points(run: Path, known: Known | None = None) -> list[Point]:
    """The trajectory of a run; no points, with a warning, if the base is not among its records.

    known: see `trajectory`.
    """
    records = read_records(run)
    if records and records[0].step != 0:
        log.warning("%s has no record of step 0, the base; no head's state is known", run)
        return []
    file = RunFile.read(run)
    return trajectory(records, file.fdr, file.hysteresis, known) if records else []


def checkpoint_rows(run: Path, points: Sequence[Point] | None = None) -> list[Row]:
    """Every checkpoint of a run that has a record or an evaluation, by step.

    `points` are the run's trajectory, if it has been read already.

    Raises:
        ValueError: the directory holds no run, or the run has no checkpoint yet.
    """
    name = RunFile.read(run).signal
    measured = {p.step: p for p in (tracked_points(run) if points is None else points)}
    evaluations, metrics = read_evaluations(run), read_metrics(run)
    tasks = {task: read_evaluations(run, task) for task in evaluated_tasks(run)}
    broken = invalid_steps(run)
    steps = sorted({*measured, *evaluations, *broken, *(s for t in tasks.values() for s in t)})
    if not steps:
        raise ValueError(
            f"{run} has neither heads/step-* nor evaluations/step-*; wait for a checkpoint, "
            "or switch on tracking or evaluation and train again"
        )
    rows = []
    for previous, step in zip([0, *steps], steps, strict=False):
        logged = [v[name] for s, v in metrics.items() if previous < s <= step and name in v]
        signal = math.fsum(logged) / len(logged) if logged else None
        scored = {task: scores[step] for task, scores in tasks.items() if step in scores}
        rows.append(
            Row(step, signal, evaluations.get(step), measured.get(step), broken.get(step), scored)
        )
    return rows


@dataclass(frozen=True)
class Run:
    """Everything read from a run. `label` is its name, with its path where names are equal.

    file: its run.json. config_text: its config.yaml, if there is one.
    logged: step and value of the loss or reward, as the trainer logged it.
    interventions: results of `headlab evaluate` on its checkpoints.
    roles: of the heads at the last record; None if they were not measured.
    """

    label: str
    file: RunFile
    config_text: str | None
    rows: list[Row]
    logged: list[tuple[int, float]]
    interventions: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: Roles | None = None

    @property
    def signal_name(self) -> str | None:
        """`loss`, `reward`, ..., or None where nothing was trained."""
        return self.file.signal

    @property
    def points(self) -> list[Point]:
        """The trajectory."""
        return [row.point for row in self.rows if row.point is not None]

    @property
    def associations(self) -> dict[str, Association]:
        """Of the signal with each curve of the heads."""
        return associations(self.points, [r.signal for r in self.rows if r.point is not None])

    def final_heads(self, state: str) -> list[str]:
        """Heads in a raw state at the last record, as L3H2; none if no head was tracked."""
        return self.points[-1].names(self.points[-1].masks[state]) if self.points else []


def read_runs(paths: Sequence[Path], known: Known | None = None) -> list[Run]:
    """Read runs from their directories (see `checkpoint_rows` for what it raises).

    known: see `analysis.trajectories.trajectory.trajectory`.
    """
    files = [RunFile.read(path) for path in paths]
    names = [file.name for file in files]
    runs = []
    for path, file in zip(paths, files, strict=True):
        name, signal = file.name, file.signal
        rows = checkpoint_rows(path, tracked_points(path, known))
        tracked = [row.step for row in rows if row.point is not None]
        metrics = sorted(read_metrics(path).items())
        run = Run(
            label=name if names.count(name) == 1 else f"{name} ({path})",
            file=file,
            config_text=config_text(path),
            rows=rows,
            logged=[(step, values[signal]) for step, values in metrics if signal in values],
            interventions=read_interventions(path),
            roles=read_roles(path, tracked[-1]) if tracked else None,
        )
        runs.append(run)
    return runs

"""What the page says of all checkpoints of a run together: states and calls, curves, roles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from analysis.heads.changes import CHANGES
from analysis.reporting.dashboard.columns import columns, shown_rows
from analysis.reporting.dashboard.form import SETTLED, STATES, Judged, Packed, Roles
from analysis.reporting.dashboard.packing import packed
from analysis.reporting.dashboard.tiles import tiles
from analysis.reporting.dashboard.verdict import verdict
from analysis.reporting.roles import TITLES
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point


def judged(run: Run) -> Judged:
    """All that may change when a checkpoint is added."""
    points, found = run.points, columns(run)
    return {
        "steps": [row.step for row in shown_rows(run)],
        "state": packed(_table(points, _states), "u8"),
        "called": packed(_table(points, _called), "u8"),
        "settled": packed(_table(points, _settled), "u8"),
        "columns": found,
        "invalid": {str(row.step): row.invalid for row in run.rows if row.invalid is not None},
        "verdict": verdict(run),
        "tiles": tiles(run, found),
        "roles": _roles(run),
    }


def _table(points: Sequence[Point], of: Callable[[Point], torch.Tensor]) -> np.ndarray:
    """[T, H]; without points [0, 0]."""
    return torch.stack([of(point) for point in points]).numpy() if points else np.zeros((0, 0))


def _states(point: Point) -> torch.Tensor:
    found = torch.zeros(len(point.first), dtype=torch.int64)
    for name in reversed(STATES[1:]):
        found[point.masks[name]] = STATES.index(name)
    return found


def _called(point: Point) -> torch.Tensor:
    return torch.stack([point.change.called[name] for name in CHANGES]).any(0)


def _settled(point: Point) -> torch.Tensor:
    found = torch.zeros(len(point.first), dtype=torch.int64)
    for name in reversed(SETTLED[1:]):
        found[point.settled[name]] = SETTLED.index(name)
    return found


def _roles(run: Run) -> Roles | None:
    if run.roles is None:
        return None
    scores = {name: run.roles.scores[name] for name in TITLES if name in run.roles.scores}

    def table(end: str) -> Packed:
        return packed(np.array([getattr(score, end) for score in scores.values()]), "f16")

    return {
        "step": run.points[-1].step,
        "titles": {name: TITLES[name] for name in scores},
        "value": table("value"),
        "low": table("low"),
        "high": table("high"),
    }

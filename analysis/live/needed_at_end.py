"""At the end of a run: whether the heads that its last checkpoint calls are needed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.interventions.needed_run import Question, measure, question
from analysis.records.needed import needed_path, write_needed
from analysis.tracking import distributed

if TYPE_CHECKING:
    from torch import nn

    from analysis.tracking.tracker import HeadTracker
    from analysis.trajectories.trajectory import Point

log = logging.getLogger(__name__)


def ask_at_end(
    tracker: HeadTracker,
    step: int,
    model: nn.Module,
    base: Callable[[], nn.Module] | None,
    most: int | None = None,
) -> bool:
    """Take the called heads of a recorded step out of its model and of the base; whether it was so.

    To be called by all ranks, with the same whole weights; rank 0 writes. A step whose record is of
    other weights (a trainer that went back to its best checkpoint) is left alone.

    base: loads it, where there is one beside the model. most: only so many heads, the most
    important; 0: none, and nothing is asked.
    """
    if most == 0:
        return False
    asked = distributed.from_main(partial(_question, tracker.run, step, model, most))
    if asked is None:
        return False
    settings = tracker.settings
    how = (settings.batch_size, settings.resamples, settings.seed)
    found = measure(asked, tracker.pairs, model, base if step else None, *how)
    if distributed.rank() == 0:
        write_needed(tracker.run, found)
    return True


def _question(run: Path, step: int, model: nn.Module, most: int | None) -> Question | None:
    """What is asked; None, with a line, where there is nothing to ask. Never raises."""
    try:
        needed_path(run, step).unlink(missing_ok=True)  # of a record that was there before
        found = _points(run, step)
        asked = None if found is None else question(*found, most=most)
        if found is None or asked is None:
            return None
        if not asked.heads:
            log.info("step %d: %s, so none is asked to be needed", step, asked.plan.note)
            return None
        if not _is_of(found[1], model):
            log.info("the model is not that of step %d any more; headlab needed loads it", step)
            return None
        return asked
    except Exception:
        log.exception("whether heads of %s are needed can't be asked", run)
        return None


def _points(run: Path, step: int) -> tuple[Point, Point] | None:
    """The base, and the point of a step that is the last one."""
    from analysis.trajectories.run import Run

    points = Run.read(run).points
    return (points[0], points[-1]) if points and points[-1].step == step else None


def _is_of(point: Point, model: nn.Module) -> bool:
    from analysis.models.provenance import weight_hashes

    return weight_hashes(model).items() <= (point.record.origin.get("model") or {}).items()

"""At the end of a run: whether the heads that its last checkpoint calls are needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.interventions.needed_run import Question, in_base, measure, noted, question
from analysis.records.needed import Needed, needed_path, write_needed
from analysis.tracking import distributed
from analysis.tracking.sharing import out_of_memory

if TYPE_CHECKING:
    from torch import nn

    from analysis.tracking.tracker import HeadTracker
    from analysis.trajectories.trajectory import Point

Load = Callable[[], "nn.Module"]
log = logging.getLogger(__name__)


@contextmanager
def loaded(load: Load) -> Iterator[nn.Module]:
    """A model that is loaded when it is entered, and not held any longer than that."""
    yield load()


def ask_at_end(
    tracker: HeadTracker,
    step: int,
    model: AbstractContextManager[nn.Module],
    base: Load | None,
    most: int | None = None,
) -> bool:
    """Take the called heads of a recorded step out of its model and of the base; whether it was so.

    To be called by all ranks; rank 0 writes, and what fails on one of them fails on all, so that
    none waits for another. A step whose record is of other weights (a trainer that went back to its
    best checkpoint) is left alone.

    model: entered where there is something to ask: the model with whole weights, the same on all
    ranks.  base: loads it once the model is left, so that there is one of them at a time where the
    model is a copy too.  most: only so many heads, the most important; 0: none, and nothing is
    asked.
    """
    if most == 0:
        return False
    asked = distributed.from_main(partial(_question, tracker.run, step, most))
    if asked is None:
        return False
    settings = tracker.settings
    how = (settings.batch_size, settings.resamples, settings.seed)
    with model as live:
        if not distributed.main_decides(partial(_is_of, tracker.run, step, live)):
            return False
        found = measure(asked, tracker.pairs, live, *how)
        del live
    if base is not None and step:
        found = _with_base(found, asked, tracker, base, how)
    distributed.together(partial(_write, tracker.run, found))
    return True


def _with_base(
    found: Needed, asked: Question, tracker: HeadTracker, load: Load, how: tuple[int, int, int]
) -> Needed:
    """With what taking the same heads out of the base does; a note, where that can't be had."""
    try:
        return in_base(found, asked, tracker.pairs, load, *how)
    except Exception as error:  # on all ranks, or on none
        no_memory = isinstance(error, RuntimeError) and out_of_memory(error)
        if distributed.any_rank(no_memory):
            return noted(found, "there was no memory for the base")
        if distributed.rank() == 0:
            log.warning("the base of %s could not be measured: %s", tracker.run, error)
        return noted(found, "the base could not be measured")


def _write(run: Path, found: Needed) -> None:
    if distributed.rank() == 0:
        write_needed(run, found)


def _question(run: Path, step: int, most: int | None) -> Question | None:
    """What is asked; None, with a line, where there is nothing to ask. Never raises."""
    try:
        needed_path(run, step).unlink(missing_ok=True)  # of a record that was there before
        found = _points(run, step)
        if found is None:
            return None
        asked = question(*found, most=most)
        if not asked.heads:
            log.info("step %d: %s, so none is asked to be needed", step, asked.plan.note)
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


def _is_of(run: Path, step: int, model: nn.Module) -> bool:
    """Whether a model is the one that a step's record is of; told where it is not. Never raises."""
    from analysis.models.provenance import weight_hashes
    from analysis.records.record_files import read_record

    try:
        record = read_record(run, step)
        measured = {} if record is None else record.origin.get("model") or {}
        if weight_hashes(model).items() <= measured.items():
            return True
        log.info("the model is not that of step %d any more; headlab needed loads it", step)
    except Exception:
        log.exception("the model can't be told to be that of step %d of %s", step, run)
    return False

"""When a training is looked at for its heads, and how: schedule, budget, live model or copy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from analysis.live.compat import unsharded_loading
from analysis.live.needed_at_end import ask_at_end, loaded
from analysis.live.observing import Observer, seen_whole
from analysis.live.schedule import Budget, Schedule
from analysis.live.track_now import TrackNow
from analysis.models.preserve import preserved
from analysis.records.checkpoints import Base
from analysis.records.needed import needed_path
from analysis.tracking import distributed
from analysis.tracking.tracker import HeadTracker

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from analysis.models.loading import Model
    from analysis.tracking.settings import TrackingConfig

log = logging.getLogger(__name__)


class HeadObserver(Observer):
    """Tracks the heads of the live model, or of a copy of each checkpoint (where=checkpoint).

    With where=sidecar it only sees to it that the steps of the schedule are saved. With
    on_error=warn a failure is logged, no more. A step is tracked at once where somebody asks
    (track_now.py).
    """

    def __init__(
        self,
        tracking: TrackingConfig,
        tracker: HeadTracker | None = None,
        start: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """tracker: that of the run, given here or before training begins. Others: see Observer."""
        super().__init__(start, stopping)
        self.tracking = tracking
        self.schedule = Schedule.parse(tracking.schedule)
        self.budget = Budget(tracking.budget)
        self.show_progress = True
        self._given = tracker
        self._now = TrackNow()
        self.asked = False  # whether the heads of the last step were taken out, at the end
        self._also: set[int] = set()  # steps that are tracked whatever the schedule says

    @property
    def tracker(self) -> HeadTracker:
        assert self._given is not None, "given before training begins"
        return self._given

    @property
    def is_inline(self) -> bool:
        return self.tracking.where == "inline"

    def is_done(self, step: int) -> bool:
        return self.tracker.is_tracked(step)

    def is_wanted(self, step: int, last: int) -> bool:
        if self.tracking.where == "sidecar":
            return False
        if step in self._also:
            return True
        if not self.schedule.includes(step, last):
            return False
        return step in (0, last) or distributed.main_decides(lambda: self.budget.allows(step))

    def is_regular(self, step: int) -> bool:
        return super().is_regular(step) or self.schedule.is_due(step)

    def look(
        self,
        state: TrainerState,
        model: Model | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        if self.is_inline:
            super().look(state, model, tokenizer)
        else:
            self.looked = state.global_step
            self.observe(state.global_step, None, tokenizer)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        self._now.start(self.tracker.run)
        super().on_train_begin(args, state, control, model, processing_class, **kwargs)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        step, last = state.global_step, state.max_steps
        asked = self._now.heed() and not self.stopping()
        if asked:
            self._also.add(step)
        if control.should_save or not (asked or self.schedule.is_due(step) or step == last):
            return  # what is saved is tracked after it is saved
        if step == last and args.save_strategy == "epoch" and not asked:
            return  # the end of the last epoch saves it
        self.look_or_save(state, control, last, model, processing_class)

    def look_or_save(
        self,
        state: TrainerState,
        control: TrainerControl,
        last: int,
        model: Model | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """Look at the live model; what reads checkpoints gets one."""
        if not self.is_inline:
            control.should_save = True
        elif self.is_wanted(state.global_step, last):
            self.look(state, model, tokenizer)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._now.stop()
        self.asked = False
        last = self.looked == state.global_step and state.global_step > 0
        if last and self.tracking.where != "sidecar" and not self.stopping():
            step, model = state.global_step, kwargs["model"]
            copy = loaded(partial(self._copy, step))
            with preserved(model):
                whole = seen_whole(model, self.trainer) if self.is_inline else copy
                self.asked = self._ask(step, whole)

    def make_up(self, step: int) -> None:
        """Ask of a run that has ended what a stop has left out at its end."""
        is_asked = partial(needed_path(self.tracker.run, step).exists)
        if self.tracking.where != "sidecar" and not distributed.main_decides(is_asked):
            self.asked = self._ask(step, loaded(partial(self._copy, step)))

    def _ask(self, step: int, model: AbstractContextManager[Any]) -> bool:
        """Whether the called heads are needed; whether it was measured."""
        has_base = distributed.main_decides(lambda: Base.read(self.tracker.run) is not None)
        base = partial(self._copy, 0) if has_base else None
        try:
            return ask_at_end(self.tracker, step, model, base, self.tracking.needed)
        except Exception:
            if self.tracking.on_error == "raise":
                raise
            if distributed.rank() == 0:
                log.exception("whether heads are needed could not be measured; all else is there")
        return False

    def observe(
        self, step: int, model: Model | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        started = time.monotonic()
        try:
            if model is None:
                model = self._copy(step)
            self.tracker.track(model, step, self.show_progress)
        except Exception:
            if self.tracking.on_error == "raise":
                raise
            if distributed.rank() == 0:
                log.exception("head tracking failed at step %d; the checkpoint is safe", step)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what tracking has used is the training's again
        self.budget.add(time.monotonic() - started)

    def _copy(self, step: int) -> Model:
        """The model of a checkpoint, read back from its files."""
        run = self.tracker.run

        def load() -> Model:
            base = Base.read(run)
            assert base is not None, "written when training began"
            with unsharded_loading():
                return base.load(run / f"checkpoint-{step}" if step else None)

        return distributed.together(load)

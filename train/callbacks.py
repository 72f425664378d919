"""What headlab hangs on a trainer to look at the model: tracking, evaluation, and what shows them.

The callbacks see the live, unwrapped model, with whole weights under every way of sharding. All
ranks come to each observation and leave it together, so that none runs ahead.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from analysis.evaluation.asking import digest, evaluate
from analysis.evaluation.completions import Completions
from analysis.evaluation.sampling import Sampling
from analysis.live.compat import unsharded_loading
from analysis.live.schedule import Budget, Schedule
from analysis.live.whole_weights import whole_weights
from analysis.records.checkpoints import Base
from analysis.records.evaluations import answers_path, read_evaluations, write_evaluation
from analysis.reporting.present import present
from analysis.reporting.publish import Publisher
from analysis.tracking import distributed
from analysis.tracking.tracker import HeadTracker
from analysis.trajectories.trajectory import Known
from train.build import Evaluation
from train.interrupt import Interrupt

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from analysis.models.loading import Model

log = logging.getLogger(__name__)


class Progress(ProgressCallback):
    """The trainer's progress bar, with the newest loss or reward beside it instead of log lines."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {k: f"{logs[k]:.3g}" for k in ("loss", "reward") if k in logs}
            self.training_bar.set_postfix(shown)


class CheckpointCallback(TrainerCallback):
    """Calls `observe(step, model, tokenizer)` on all ranks at step 0 and at each save.

    A resumed run observes the checkpoint it starts from as well, if `is_done` says that its result
    is missing, because the run may have been stopped between saving and observing. What a stop by
    SIGTERM leaves out is made up in that way.

    `start`: the step of the checkpoint resumed from, or None if it was saved for an interruption.
    """

    def __init__(self, interrupt: Interrupt, start: int | None) -> None:
        self.interrupt = interrupt
        self.start = start
        self.looked: int | None = None  # the step that was observed last
        self.trainer: Trainer | None = None  # given by the run, before training begins

    def is_done(self, step: int) -> bool:
        raise NotImplementedError

    def is_wanted(self, step: int, last: int) -> bool:
        """Whether the checkpoint of a step is observed."""
        return True

    def is_regular(self, step: int) -> bool:
        """Whether the step that a run starts from is one that an unbroken run would observe."""
        return step == self.start

    def observe(
        self, step: int, model: Model | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        raise NotImplementedError

    def look(
        self,
        state: TrainerState,
        model: Model | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """Observe the live model, with its weights whole."""
        assert self.trainer is not None, "the run gives it before training begins"
        self.looked = state.global_step
        with whole_weights(self.trainer):
            self.observe(state.global_step, model, tokenizer)
        distributed.wait_for_all()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        step = state.global_step
        wanted = self.is_regular(step) and self.is_wanted(step, state.max_steps)
        if wanted and not distributed.main_decides(lambda: self.is_done(step)):
            self.look(state, model, processing_class)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if self.looked == state.global_step:  # at the end of the step, before it was saved
            return
        wanted = self.is_wanted(state.global_step, state.max_steps)
        if wanted and not self.interrupt.stopping:
            self.look(state, model, processing_class)


class HeadTrackingCallback(CheckpointCallback):
    """Tracks the heads of the live model, or of a copy of each checkpoint (where=checkpoint).

    With where=sidecar it only sees to it that the steps of the schedule are saved. With
    on_error=warn a failure is logged, no more.
    """

    def __init__(
        self,
        tracker: HeadTracker,
        where: str,
        schedule: Schedule,
        budget: float | None,
        on_error: str,
        interrupt: Interrupt,
        start: int | None,
    ) -> None:
        super().__init__(interrupt, start)
        self.tracker = tracker
        self.where = where
        self.schedule = schedule
        self.budget = Budget(budget)
        self.on_error = on_error

    def is_done(self, step: int) -> bool:
        return self.tracker.is_tracked(step)

    def is_wanted(self, step: int, last: int) -> bool:
        if self.where == "sidecar" or not self.schedule.includes(step, last):
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
        if self.where == "inline":
            super().look(state, model, tokenizer)
        else:
            self.looked = state.global_step
            self.observe(state.global_step, None, tokenizer)

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
        if control.should_save or not (self.schedule.is_due(step) or step == last):
            return  # what is saved is tracked after it is saved
        if step == last and args.save_strategy == "epoch":
            return  # the end of the last epoch saves it
        if self.where != "inline":
            control.should_save = True
        elif self.is_wanted(step, last):
            self.look(state, model, processing_class)

    def observe(
        self, step: int, model: Model | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        started = time.monotonic()
        try:
            if model is None:
                model = self._copy(step)
            self.tracker.track(model, step)
        except Exception:
            if self.on_error == "raise":
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


class EvaluationCallback(CheckpointCallback):
    """Measures pass@1 on one set of problems, on rank 0; an answer given is not drawn again."""

    def __init__(
        self,
        run: Path,
        evaluation: Evaluation,
        sampling: Sampling,
        seed: int,
        interrupt: Interrupt,
        start: int | None,
    ) -> None:
        super().__init__(interrupt, start)
        self.run = run
        self.evaluation = evaluation
        self.sampling = sampling
        self.seed = seed

    def is_done(self, step: int) -> bool:
        return step in read_evaluations(self.run, self.evaluation.task)

    def observe(
        self, step: int, model: Model | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        e = self.evaluation

        assert model is not None and tokenizer is not None, "a trainer hands over both"

        def measure() -> None:
            if distributed.rank() == 0:
                store = Completions(answers_path(self.run, e.task, step))
                score = evaluate(
                    model, tokenizer, e.problems, e.prompting, self.sampling, self.seed, store
                )
                asked = digest(e.problems, e.prompting, self.sampling, self.seed)
                write_evaluation(self.run, step, {**score.to_json(), "asked": asked}, e.task)

        distributed.together(measure)


class PresentCallback(TrainerCallback):
    """After the others, on the main process: W&B and the report get what is new in the records."""

    def __init__(self, run: Path, publisher: Publisher | None, pages: bool) -> None:
        """`pages`: write the report as well; with a sidecar that is the sidecar's."""
        self.run = run
        self.publisher = publisher
        self.pages = pages
        self.known: Known = {}

    def present(self) -> None:
        present(self.run, self.publisher, self.pages, self.known)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.present()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.present()


class MirrorCallback(TrainerCallback):
    """On the main process: W&B gets the trainer's configuration and what it logs.

    It takes the place of transformers' WandbCallback, which calls W&B in this process.
    """

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        assert model is not None, "a trainer hands over its model"
        parameters = {"model/num_parameters": model.num_parameters()}
        self.publisher.configure({**model.config.to_dict(), **args.to_dict(), **parameters})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.publisher.training(state.global_step, logs or {})

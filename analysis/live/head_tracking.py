"""Head tracking as a callback of any trainer that is a `transformers.Trainer`.

    from headlab import HeadTracking
    trainer.add_callback(HeadTracking("pairs.jsonl"))

Everything else it takes from the trainer: where the run is (`output_dir`), the live model and its
tokenizer, when it saves, what it logs. See docs/any-trainer.md.
"""

from __future__ import annotations

import inspect
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.heads.changes import FDR, HYSTERESIS
from analysis.live.adopted_run import AdoptedRun
from analysis.live.head_observer import HeadObserver
from analysis.live.keywords import tracking_of
from analysis.live.observing import seen_whole
from analysis.live.reference import reference_of
from analysis.live.schedule import Budget
from analysis.live.taken import (
    base_at,
    base_of,
    check,
    chooses_by_heads,
    given_pairs,
    run_file,
    tokenizer_of,
)
from analysis.models.preserve import preserved
from analysis.prompts.pairs import Pairs
from analysis.reporting.alerts import Alarm
from analysis.reporting.mirror import check_logger, open_mirrors
from analysis.tracking import distributed
from analysis.tracking.tracker import HeadTracker

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from analysis.models.loading import Model

log = logging.getLogger(__name__)

_OPEN: dict[Path, HeadTracking] = {}  # directories in which a training of this process is tracked


class HeadTracking(HeadObserver):
    """Tracks the heads of the model that a trainer trains, and keeps a run of it in its directory.

    Training is the same to the last bit with it and without it.
    """

    def __init__(
        self,
        pairs: str | Path | Pairs,
        *,
        run_dir: str | Path | None = None,
        trainer: Trainer | None = None,
        where: str = "inline",
        schedule: str | Sequence[int] = "saves",
        budget: float | None = None,
        on_error: str = "warn",
        fdr: float = FDR,
        hysteresis: int = HYSTERESIS,
        logger: str | Sequence[str] = "auto",
        alerts: Sequence[str] = (),
        webhook: str | None = None,
        halt: bool = False,
        name: str | None = None,
        reference: Model | str | Path | None = None,
        **settings: Any,
    ) -> None:
        """Nothing is read or written before the training begins.

        Args:
            pairs: a pairs file (docs/tracking.md), pairs, or `auto`: made of the trainer's rows.
            run_dir: where records and report go; the trainer's output_dir if it is not said.
            trainer: needed where its weights are divided over processes (ZeRO-3).
            where, schedule, budget, on_error, fdr, hysteresis: keys of `tracking`.
            logger: what gets rows of heads: the runs of W&B and trackio that the trainer has open
                and the other loggers that it reports to ("auto"), "wandb", "trackio",
                "tensorboard", several of them, or "none".
            alerts: rules such as "faithfulness<0.3" (docs/tracking.md); webhook: an address that
                they are sent to as well.
            halt: an alert ends the training, after a checkpoint.
            name: of the run, in report and loggers; that of its directory if it is not said.
            reference: a second model whose heads the report compares, or where its files are; of a
                distillation the teacher, where trainer or arguments name it.
            settings: the other keys of `tracking`: ig_steps, metric, top_n, resamples, ...

        Raises:
            TypeError: there is no such keyword.
            ValueError: a value is of another type, or out of range.
        """
        told = {
            "where": where,
            "schedule": schedule if isinstance(schedule, str) else list(schedule),
            "budget": budget,
            "on_error": on_error,
            "fdr": fdr,
            "hysteresis": hysteresis,
        }
        super().__init__(tracking_of(told | settings, inspect.signature(HeadTracking).parameters))
        try:
            check_logger(logger)
            Alarm(Path(), alerts, webhook)
        except ValueError as error:
            raise ValueError(f"HeadTracking: {error}") from error
        if where == "checkpoint" and run_dir is not None:
            raise ValueError(
                "HeadTracking: where='checkpoint' reads the trainer's checkpoints in its "
                "output_dir; leave run_dir out"
            )
        self.trainer = trainer
        self.run: AdoptedRun | None = None  # on the main process
        self.values: dict[str, float] = {}  # of the newest checkpoint, on all ranks
        self.training: TrainerState | None = None  # the one that the run is open for
        self._pairs = pairs
        self._run_dir = None if run_dir is None else Path(run_dir).expanduser()
        self._logger = logger
        self._alerts = (tuple(alerts), webhook)
        self._halt = halt
        self._alarmed = False  # an alert of this training was raised, on all ranks
        self._name = name
        self._reference = reference
        self._logs = 0  # how many of the training's have been seen
        self._entered: float | None = None  # the step whose values the training's logs have

    def show(self) -> None:
        """Show the run as it is now in a notebook: curves, map and table.

        Raises:
            ValueError: there is nothing to show yet.
        """
        from analysis.reporting.run_view import read_run

        read_run(self.tracker.run).show()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        assert model is not None, "a trainer hands over its model"
        with preserved(model):
            tokenizer = tokenizer_of(processing_class, model)
            if not self._open(args, state, model, tokenizer, kwargs.get("train_dataloader")):
                return
        super().on_train_begin(args, state, control, model, processing_class, **kwargs)
        self.looked = state.global_step
        if state.global_step and self.tracking.where != "sidecar":
            self._make_up_base(model)
        if not self.values:
            self._show(model)

    def look(
        self,
        state: TrainerState,
        model: Model | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        super().look(state, model, tokenizer)
        self._show(model)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training is state:
            super().on_step_end(args, state, control, model, processing_class, **kwargs)
            self._end_if_alarmed(state, control, saved=False)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training is state:
            super().on_save(args, state, control, model, processing_class, **kwargs)
            self._end_if_alarmed(state, control, saved=True)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        """The last step of a training that ends before its time is tracked too."""
        step = state.global_step
        if self.training is not state or not control.should_training_stop or self.looked == step:
            return
        self._also.add(step)
        if not control.should_save:
            self.look_or_save(state, control, step, model, processing_class)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep what the trainer logs, and add what is new of the heads to it.

        What an evaluation found is logged before anybody chooses by it, such as early stopping.
        """
        if self.training is not state or not logs or len(state.log_history) == self._logs:
            return
        self._logs = len(state.log_history)
        if self.run is not None:
            self.run.log(state.global_step, logs)
        if any(name.startswith("eval_") for name in logs):
            self._look_before_choice(args, state, control, model, processing_class)
            entering = self._evaluated()
        elif self.values.get("heads/step") == self._entered:
            return
        else:
            entering = self.values
            self._entered = self.values.get("heads/step")
        for place in (logs, state.log_history[-1]):
            for name, value in entering.items():
                place.setdefault(name, value)  # another's, of other pairs, stay

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        """Of a trainer that logs a copy of what its evaluation found, add the heads to that."""
        if self.training is state and metrics is not None:
            self._look_before_choice(args, state, control, model, processing_class)
            for name, value in self._evaluated().items():
                metrics.setdefault(name, value)
            self._end_if_alarmed(state, control, saved=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training is not state:
            return
        super().on_train_end(args, state, control, **kwargs)
        if self.asked:
            self._show(kwargs["model"])
        if self.run is not None:
            self.run.end(state.global_step)
        self._close()

    def _open(
        self,
        args: TrainingArguments,
        state: TrainerState,
        model: Model,
        tokenizer: PreTrainedTokenizerBase | None,
        loader: Any,
    ) -> bool:
        """Open the run for a training; False if another of its kind has it open.

        Raises:
            ValueError: the model can't be tracked, pairs or arguments are wrong, or the directory
                is in use; before anything is written.
        """
        path = self._run_dir or Path(str(args.output_dir))
        other = _OPEN.get(path.resolve())
        if other is not None and other.training is state:
            if distributed.rank() == 0:
                log.warning("HeadTracking is there twice for %s; once is enough", path)
            return False
        for broken_off in (other, self):
            if broken_off is not None:
                broken_off._close()
        with seen_whole(model, self.trainer) as plain:
            base = base_at(state.global_step, plain)
            check(args, plain, base, self.tracking)
            own = path if state.global_step else None
            pairs = given_pairs(
                *(self._pairs, own, tokenizer, self.tracking.metric, self.trainer, loader),
                times=self.tracking.base_pairs,
            )
            tracker = HeadTracker(path, pairs, self.tracking.settings(), tokenizer)
            reference = reference_of(self._reference, args, self.trainer, tokenizer)

            def begin() -> None:
                if distributed.rank() == 0:
                    name = self._name or path.resolve().name
                    file = run_file(name, args, self.tracking, self.trainer)
                    mirrors = open_mirrors(args.report_to, self._logger)
                    self.run = AdoptedRun(file, tracker, state.global_step, mirrors, *self._alerts)
                    self.run.begin(plain, base, tokenizer)

            try:
                distributed.together(begin)
                if reference:
                    reference.measure(tracker)
            except BaseException:
                self._close()
                raise
        if self.tracking.where == "sidecar" and distributed.rank() == 0:
            words = shlex.join([f"watch={path}", f"run={path}"])
            print(f"to track the checkpoints: headlab track {words}", flush=True)
        _OPEN[path.resolve()] = self
        self._given, self.training = tracker, state
        self.start, self.looked, self._also = state.global_step, None, set()
        self.values, self._entered, self._logs, self._alarmed = {}, None, 0, False
        self.budget = Budget(self.tracking.budget)
        self.show_progress = not args.disable_tqdm
        return True

    def _make_up_base(self, model: Model) -> None:
        """Track the base of a training that is resumed, where nobody did so when it began."""
        if distributed.main_decides(lambda: self.is_done(0)):
            return
        if distributed.main_decides(lambda: base_of(model) is not None):
            with preserved(model):
                self.observe(0, None, None)
        elif distributed.rank() == 0:
            log.warning(
                "%s has no record of step 0 and its base model is not known, so no head is called "
                "emergent or pruned",
                self.tracker.run,
            )

    def _look_before_choice(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """Where an evaluated step is to be tracked, it is before the trainer compares it."""
        step, last = state.global_step, state.max_steps
        if not self.is_inline or self.looked == step:
            return
        if chooses_by_heads(args):
            self._also.add(step)
        if step in self._also or control.should_save or self.schedule.is_due(step) or step == last:
            self.look_or_save(state, control, last, model, tokenizer)

    def _evaluated(self) -> dict[str, float]:
        return {f"eval_{name}": value for name, value in self.values.items()}

    def _show(self, model: Model | None) -> None:
        """Bring what shows the run, and the values, up to date."""
        assert model is not None, "a trainer hands over its model"

        def show() -> tuple[dict[str, float], bool]:
            assert self.run is not None, "the main process has it"
            return self.run.show(), self.run.alarmed

        with preserved(model):
            self.values, self._alarmed = distributed.from_main(show)

    def _end_if_alarmed(self, state: TrainerState, control: TrainerControl, saved: bool) -> None:
        """End the training at this step, with a checkpoint, if an alert is to end it."""
        if self._halt and self._alarmed and state.global_step > 0:
            if not control.should_training_stop and distributed.rank() == 0:
                log.warning("an alert ends the training at step %d", state.global_step)
            control.should_training_stop = True
            control.should_save = control.should_save or not saved

    def _close(self) -> None:
        self._now.stop()
        if self.run is not None:
            self.run.close()
        for path in [path for path, tracking in _OPEN.items() if tracking is self]:
            del _OPEN[path]
        self.run = self.training = None

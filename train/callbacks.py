"""What headlab hangs on a trainer: manifests, tracking, evaluation, metrics, and what shows them.

The callbacks see the live, unwrapped model. The main process does the work and the others wait, so
that a checkpoint is read by nobody before it is whole and no rank runs ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from analysis.evaluate import Sampling, evaluate
from analysis.present import present
from analysis.prompts import Prompting
from analysis.publish import Publisher
from analysis.records import append_metrics, read_evaluations, write_evaluation
from analysis.tasks import Problem
from analysis.tracker import HeadTracker
from train.checkpoints import write_manifest

log = logging.getLogger(__name__)


class Progress(ProgressCallback):
    """The trainer's progress bar, with the newest loss or reward beside it instead of log lines."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {k: f"{logs[k]:.3g}" for k in ("loss", "reward") if k in logs}
            self.training_bar.set_postfix(shown)


class LocalMetrics(TrainerCallback):
    """Writes what the trainer logs to RUN/metrics.jsonl, and each checkpoint's manifest."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
            append_metrics(self.run, state.global_step, numbers)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        distributed = PartialState()
        distributed.wait_for_everyone()  # every rank has written its part
        if state.is_world_process_zero:
            write_manifest(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        distributed.wait_for_everyone()


class CheckpointCallback(TrainerCallback):
    """Calls `observe(step, model, tokenizer)` on the main process at step 0 and at each save.

    A resumed run observes the checkpoint it starts from as well, if `is_done` says that its result
    is missing, because the run may have been stopped between saving and observing.
    """

    def is_done(self, step: int) -> bool:
        raise NotImplementedError

    def observe(self, step: int, model: Any, tokenizer: Any) -> None:
        raise NotImplementedError

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        if state.is_world_process_zero and not self.is_done(state.global_step):
            self.observe(state.global_step, model, processing_class)
        PartialState().wait_for_everyone()

    def on_save(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        if state.is_world_process_zero:
            self.observe(state.global_step, model, processing_class)
        PartialState().wait_for_everyone()


class HeadTrackingCallback(CheckpointCallback):
    """Tracks the heads of the live model; with on_error=warn a failure is logged, no more.

    Ranks other than the main one have no tracker.
    """

    def __init__(self, tracker: HeadTracker | None, on_error: str = "warn") -> None:
        self._tracker = tracker
        self.on_error = on_error

    @property
    def tracker(self) -> HeadTracker:
        assert self._tracker is not None, "only the main process tracks"
        return self._tracker

    def is_done(self, step: int) -> bool:
        return self.tracker.is_tracked(step)

    def observe(self, step: int, model: Any, tokenizer: Any) -> None:
        try:
            self.tracker.track(model, step)
        except Exception:
            if self.on_error == "raise":
                raise
            log.exception("head tracking failed at step %d; the checkpoint is safe", step)


class HeldOutCallback(CheckpointCallback):
    """Measures pass@1 on held-out problems."""

    def __init__(
        self,
        run: Path,
        problems: Sequence[Problem],
        prompting: Prompting,
        sampling: Sampling,
        seed: int,
    ) -> None:
        self.run = run
        self.problems = problems
        self.prompting = prompting
        self.sampling = sampling
        self.seed = seed

    def is_done(self, step: int) -> bool:
        return step in read_evaluations(self.run)

    def observe(self, step: int, model: Any, tokenizer: Any) -> None:
        score = evaluate(model, tokenizer, self.problems, self.prompting, self.sampling, self.seed)
        write_evaluation(self.run, step, score.to_json())


class PresentCallback(TrainerCallback):
    """After the others, on the main process: W&B and the report get what is new in the records."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        present(self.publisher)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        present(self.publisher)

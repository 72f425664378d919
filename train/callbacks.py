"""What a run of headlab's hangs on its trainer beside head tracking: evaluation, and what shows it.

The callbacks see the live, unwrapped model, with whole weights under every way of sharding. All
ranks come to each observation and leave it together, so that none runs ahead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from analysis.evaluation.asking import digest, evaluate
from analysis.evaluation.completions import Completions
from analysis.evaluation.sampling import Sampling
from analysis.live.observing import Observer
from analysis.records.evaluations import answers_path, read_evaluations, write_evaluation
from analysis.reporting.alerts import Alarm
from analysis.reporting.present import present
from analysis.reporting.publish import Publisher
from analysis.tracking import distributed
from analysis.trajectories.trajectory import Known
from train.build import Evaluation
from train.interrupt import Interrupt

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from analysis.models.loading import Model


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


class EvaluationCallback(Observer):
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
        super().__init__(start, lambda: interrupt.stopping)
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

    def __init__(
        self,
        run: Path,
        publisher: Publisher | None,
        pages: bool,
        alarm: Alarm | None = None,
        halt: Interrupt | None = None,
    ) -> None:
        """`pages`: write the report as well; with a sidecar that is the sidecar's.

        alarm: looks at the rows. halt: what stops the run when it has told of something.
        """
        self.run = run
        self.publisher = publisher
        self.pages = pages
        self.alarm = alarm
        self.halt = halt
        self.known: Known = {}

    def present(self) -> None:
        present(self.run, self.publisher, self.pages, self.known, self.alarm)
        if self.halt is not None and self.alarm is not None and self.alarm.raised:
            self.halt.asked = True  # all ranks agree on it at the end of a step

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

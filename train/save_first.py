"""Saving comes before anything that may fail: a trainer logs a step before it saves it.

What logs may depend on others that are gone, as W&B's process is when a cluster signals every
process of a step. Its error then waits until the checkpoint is complete.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from train.interrupt import Interrupt

log = logging.getLogger(__name__)


class SaveFirst(TrainerCallback):
    """Keeps an error of the trainer's `log` back until the step is saved, where it is to be.

    It belongs right behind the callback that declares checkpoints complete.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self.interrupt = interrupt
        self.error: Exception | None = None

    def guard(self, trainer: Trainer) -> None:
        """Stand before the trainer's `log`."""
        write = trainer.log

        def guarded(logs: dict[str, float], start_time: float | None = None) -> None:
            try:
                write(logs, start_time)
            except Exception as error:
                if not (trainer.control.should_save or self.interrupt.is_asked()):
                    raise
                self.error = error

        trainer.log = guarded  # type: ignore[method-assign]

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise what was kept back; a run that stops anyway only says it."""
        error, self.error = self.error, None
        if error is None:
            return
        if not self.interrupt.stopping:
            raise error
        what = f"{type(error).__name__}: {error}"
        log.warning("step %d is saved, but not logged everywhere (%s)", state.global_step, what)

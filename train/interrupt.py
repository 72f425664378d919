"""On SIGTERM, with which a cluster asks for its machine back: finish the step, save, stop.

The signal reaches the ranks at different times, so they agree at the end of each step whether one
of them has got it. A GRPO run finishes its generation cycle first: from the middle of one it would
not resume exactly. The checkpoint is there to resume from and is never tracked
(train/checkpoints.py).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from analysis.tracking import distributed

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)


class Interrupt(TrainerCallback):
    """Stops the training with a checkpoint when SIGTERM comes.

    asked: this rank got the signal.  stopping: all ranks stop at this step.  extra: the checkpoint
    of this step is made for the interruption only.
    """

    def __init__(self, cycle: int, is_saved: Callable[[int], bool]) -> None:
        """`is_saved`: whether a step gets a checkpoint beyond those of the trainer's own."""
        self.cycle = cycle
        self.is_saved = is_saved
        self.asked = self.stopping = self.extra = False
        self._before: Any = signal.SIG_DFL

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._before = signal.signal(signal.SIGTERM, self._handle)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        asked = distributed.any_rank(self.asked)
        if not asked or state.global_step % self.cycle or control.should_training_stop:
            return
        self.stopping = True
        if state.is_world_process_zero:
            print(f"SIGTERM: step {state.global_step} is saved, then the run stops", flush=True)
        self.extra = not (control.should_save or self.is_saved(state.global_step))
        control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)

"""A run that is asked to stop: finish the step, save, end. Whatever else has died meanwhile.

A stop is asked for by a file, whose path HEADLAB_STOP names (a Slurm job makes it:
launch/slurm.py), or by SIGTERM. Nothing but the ranks heeds the file. A signal may come from `kill`
to one rank, or from a cluster to every process there is: the workers of data loaders are therefore
started deaf to it, and W&B, which ends on it, may fail (train/save_first.py). Where somebody else
waits for SIGUSR1 or SIGUSR2, as submitit does to queue its job again, they ask for a stop too, and
are passed on when it is made.

The ranks hear of a stop at different times, so they agree at the end of each step whether one of
them has. A GRPO run finishes its generation cycle first: from the middle of one it would not resume
exactly. The checkpoint is there to resume from and is never tracked (train/checkpoints.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import context, get_context
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from analysis.files import check_claims
from analysis.tracking import distributed

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

STOP_VARIABLE = "HEADLAB_STOP"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(SystemExit):
    """A run that was asked to stop has ended, with the status of a process that SIGTERM ends.

    asked_by: the signal, if it was one.  waiting: the handler that the signal had before.
    """

    def __init__(self, asked_by: int | None, waiting: Any) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.asked_by = asked_by
        self.waiting = waiting

    def pass_on(self) -> None:
        """Call the handler that was there before; submitit's queues the job again and exits."""
        if self.asked_by is not None and callable(self.waiting):
            self.waiting(self.asked_by, None)


@contextmanager
def restored_signals() -> Iterator[None]:
    """Give the signals that ask for a stop their handlers back in the end."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupt(TrainerCallback):
    """Stops the training with a checkpoint when that is asked for.

    asked: this rank got the signal.  stopping: all ranks stop at this step.  extra: the checkpoint
    of this step is made for the interruption only.
    """

    def __init__(self, cycle: int, is_saved: Callable[[int], bool]) -> None:
        """`is_saved`: whether a step gets a checkpoint beyond those of the trainer's own."""
        self.cycle = cycle
        self.is_saved = is_saved
        self.asked = self.stopping = self.extra = False
        self._file = Path(os.environ[STOP_VARIABLE]) if os.environ.get(STOP_VARIABLE) else None
        self._asked_by: int | None = None
        self._before: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._asked_by = number

    def is_asked(self) -> bool:
        """Whether this rank knows of a stop; every rank looks, as a file system may be slow."""
        return self.asked or (self._file is not None and self._file.exists())

    def stopped(self) -> Stopped:
        """What a run that stops raises."""
        return Stopped(self._asked_by, self._before.get(self._asked_by or 0))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for number in SIGNALS:
            if number == signal.SIGTERM or callable(signal.getsignal(number)):
                self._before[number] = signal.signal(number, self._handle)
        if distributed.any_rank(self.is_asked()):
            if state.is_world_process_zero:
                print("asked to stop before the first step; nothing is trained", flush=True)
            raise self.stopped()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            check_claims()  # a save comes after this only
        asked = distributed.any_rank(self.is_asked())
        if not asked or state.global_step % self.cycle or control.should_training_stop:
            return
        self.stopping = True
        if state.is_world_process_zero:
            step = state.global_step
            print(f"asked to stop: step {step} is saved, then the run stops", flush=True)
        self.extra = not (control.should_save or self.is_saved(state.global_step))
        control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Nobody ends a run that stops before all its ranks have; torchrun would, at the first."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.stopping else handler)


class _Deaf:
    """A process that is started with the signals blocked, for as long as it lives."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()  # type: ignore[misc]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _DeafFork(_Deaf, context.ForkProcess):
    pass


class _DeafSpawn(_Deaf, context.SpawnProcess):
    pass


class _DeafForkContext(context.ForkContext):
    Process = _DeafFork


class _DeafSpawnContext(context.SpawnContext):
    Process = _DeafSpawn


_CONTEXTS = {"fork": _DeafForkContext, "spawn": _DeafSpawnContext}


def make_workers_deaf(trainer: Trainer) -> None:
    """The workers of the trainer's data loaders go on when every process is sent a signal.

    They end with the trainer, which tells them by their queue, or whose end they see. Those that a
    fork server would start are left as they are: it hands no mask on.
    """
    args, make = trainer.args, trainer.get_train_dataloader
    kind = args.dataloader_multiprocessing_context or get_context().get_start_method()
    if not args.dataloader_num_workers or kind not in _CONTEXTS:
        return

    def made() -> DataLoader[Any]:
        asked = args.dataloader_multiprocessing_context
        args.dataloader_multiprocessing_context = _CONTEXTS[kind]()  # type: ignore[assignment]
        try:
            return make()
        finally:
            args.dataloader_multiprocessing_context = asked

    trainer.get_train_dataloader = made  # type: ignore[method-assign]

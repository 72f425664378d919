"""What a run leaves beside its records: metrics, manifests, what it started from, that it ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from analysis.files import read_json, write_json
from analysis.live.manifest import MANIFEST
from analysis.models.hub import split
from analysis.models.processor import copy_processor
from analysis.records.checkpoints import Base
from analysis.records.training_log import append_metrics
from analysis.tracking import distributed
from train.checkpoints import (
    checkpoints,
    has_weights,
    step_of,
    tidy,
    tokens_seen,
    write_manifest,
)
from train.compat import set_token_count, token_count
from train.interrupt import Interrupt
from train.sharding import check_in_force

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

log = logging.getLogger(__name__)

FINISHED = "finished.json"


def write_finished(run: Path, step: int) -> None:
    """Say that a run's training ended with a step."""
    write_json(run / FINISHED, {"step": step})


def finished_step(run: Path) -> int | None:
    """The last step of a run whose training has ended.

    Raises:
        ValueError: the file that says so is damaged.
    """
    try:
        return read_json(run / FINISHED, dict[str, int])["step"]
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise ValueError(
            f"{run / FINISHED} names no step; resume the run to have it again"
        ) from error


def name_base(checkpoint: Path, source: str, base: Base) -> None:
    """Have an adapter name its base on the hub, and its commit, not the cache it was read from.

    PEFT writes what it was given, a directory, in which it looks up the vocabulary at each save.
    """
    name, config = split(base.path)[0], checkpoint / "adapter_config.json"
    if not config.is_file():
        return
    content = json.loads(config.read_text(encoding="utf-8"))
    write_json(config, {**content, "base_model_name_or_path": name, "revision": base.commit})
    card = checkpoint / "README.md"
    if card.is_file():
        card.write_text(card.read_text(encoding="utf-8").replace(source, name), encoding="utf-8")


def warn_of_cycles(args: TrainingArguments, every: int, cycle: int) -> None:
    """Say if checkpoints come in the middle of a generation cycle: the trainer does as it is told.

    every: steps from one to the next, also where the argument is a share. cycle: in steps.
    """
    if args.save_strategy == "steps" and every % cycle:
        log.warning(
            "a checkpoint every %d steps (train.args.save_steps) is not one every whole generation "
            "cycle (%d steps): a run resumed from such a checkpoint does not repeat exactly",
            every,
            cycle,
        )


class LocalMetrics(TrainerCallback):
    """Writes what the trainer logs to RUN/metrics.jsonl."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
            append_metrics(self.run, state.global_step, numbers)


class Keeper(TrainerCallback):
    """Declares checkpoints complete, removes old ones, and says where a run began and ended.

    It takes the place of the trainer's own rotation, which removes the old checkpoint before the
    new one is known to be whole, and whether or not it has been tracked.
    """

    def __init__(
        self,
        run: Path,
        base: Base,
        source: str,
        deepspeed: dict[str, Any] | None,
        keep: int | None,
        may_go: Callable[[int], bool],
        interrupt: Interrupt,
    ) -> None:
        self.run = run
        self.base = base
        self.source = source
        self.deepspeed = deepspeed
        self.keep = keep
        self.may_go = may_go
        self.interrupt = interrupt
        self.trainer: Trainer | None = None  # given by the run, before training begins

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        assert self.trainer is not None, "the run gives it before training begins"
        check_in_force(self.trainer, self.deepspeed)
        seen = tokens_seen(self.run / f"checkpoint-{state.global_step}")
        if state.global_step and seen is not None:
            set_token_count(self.trainer, seen)
        if not state.is_world_process_zero:
            return
        warn_of_cycles(args, int(state.save_steps), self.interrupt.cycle)
        path = Path(self.base.path)
        assert model is not None, "a trainer hands over its model"
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        text = str(path.resolve()) if path.is_dir() else self.base.path
        base = Base(text, dtype, self.base.commit)
        write_json(self.run / "base.json", vars(base))
        (self.run / FINISHED).unlink(missing_ok=True)
        for checkpoint in checkpoints(self.run):  # written again: not to be taken for complete
            if step_of(checkpoint) > state.global_step:
                (checkpoint / MANIFEST).unlink(missing_ok=True)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        distributed.wait_for_all()  # every rank has written its part

        def declare() -> None:
            if distributed.rank() != 0:
                return
            checkpoint = self.run / f"checkpoint-{state.global_step}"
            if not has_weights(checkpoint):
                raise RuntimeError(f"{checkpoint} was saved without weights")
            if (checkpoint / "config.json").is_file():
                copy_processor(Path(self.source), checkpoint)
            if self.base.commit is not None:
                name_base(checkpoint, self.source, self.base)
            assert self.trainer is not None, "the run gives it before training begins"
            write_manifest(checkpoint, self.interrupt.extra, token_count(self.trainer))
            tidy(self.run, self.keep, self.may_go, state.best_model_checkpoint)

        distributed.together(declare)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.global_step and not self.interrupt.stopping:
            raise RuntimeError("the trainer ended without a step, so nothing is finished")
        if state.is_world_process_zero and not self.interrupt.stopping:
            write_finished(self.run, state.global_step)

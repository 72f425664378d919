"""The trainer of a run and the callbacks that hang on it, built from its plan and setup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from analysis.evaluation.sampling import Sampling
from analysis.live.schedule import Schedule
from analysis.tracking import distributed
from analysis.tracking.tracker import HeadTracker
from train.alarm import alarm_of
from train.build import generation_cycle
from train.checkpoints import is_interrupted, step_of
from train.compat import with_orders_of_passed_epochs
from train.config import plain, tracking_config
from train.plan import Plan, Setup
from train.rollouts import end_alike

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl import GRPOTrainer, SFTTrainer

    from analysis.reporting.publish import Publisher


def build_trainer(plan: Plan, setup: Setup) -> SFTTrainer | GRPOTrainer:
    """TRL's trainer, which loads the weights; it ends and orders as ours are to."""
    from trl import GRPOTrainer, SFTTrainer

    shared: dict[str, Any] = {
        "model": setup.source,
        "args": plan.args,
        "train_dataset": setup.dataset,
        "processing_class": setup.tokenizer,
        "peft_config": plan.peft,
    }
    if plan.cfg.train.kind == "sft":
        return SFTTrainer(**shared)
    trainer = GRPOTrainer(**shared | {"reward_funcs": plan.rewards})
    with_orders_of_passed_epochs(trainer)
    end_alike(trainer, setup.tokenizer, setup.ask)
    return trainer


def build_callbacks(plan: Plan, setup: Setup, publisher: Publisher | None) -> list[TrainerCallback]:
    """In the order of their calls: what a checkpoint is comes before anything that reads it.

    What shows the run is the main process's; the others only keep pace.
    """
    from analysis.live.head_observer import HeadObserver
    from train.callbacks import (
        EvaluationCallback,
        MirrorCallback,
        PresentCallback,
    )
    from train.interrupt import Interrupt
    from train.keeper import Keeper, LocalMetrics
    from train.save_first import SaveFirst

    cfg = plan.cfg
    where = cfg.tracking.where
    schedule = Schedule.parse(plain(cfg.tracking)["schedule"])
    # who looks at the model, and what stops the training
    tracker = None
    if plan.tracking is not None and setup.pairs is not None:
        tracker = HeadTracker(plan.run, setup.pairs, plan.tracking, setup.tokenizer)
        tracker.start()
    interrupt = Interrupt(
        generation_cycle(plan.args),
        lambda step: tracker is not None and where != "inline" and schedule.is_due(step),
    )

    def may_go(step: int) -> bool:
        return tracker is None or not schedule.includes(step, 0) or tracker.is_tracked(step)

    # what every run has
    deepspeed = cast("dict[str, Any] | None", plan.args.deepspeed)  # cfg.deepspeed.config
    found: list[TrainerCallback] = [
        LocalMetrics(plan.run),
        interrupt,
        Keeper(plan.run, setup.base, setup.source, deepspeed, plan.keep, may_go, interrupt),
        SaveFirst(interrupt),
    ]
    # what looks at the checkpoints, from the step where this run starts
    start: int | None = 0
    if plan.checkpoint is not None:
        start = None if is_interrupted(plan.checkpoint) else step_of(plan.checkpoint)
    if tracker is not None:
        found.append(HeadObserver(tracking_config(cfg), tracker, start, lambda: interrupt.stopping))
    e = cfg.evaluation
    for evaluation in setup.evaluations:
        sampling = Sampling(e.samples, e.temperature, e.top_p, e.max_new_tokens, e.batch_size)
        found.append(EvaluationCallback(plan.run, evaluation, sampling, e.seed, interrupt, start))
    # last, what shows their records
    if distributed.rank() == 0 and (tracker is not None or setup.evaluations):
        alarm = None if where == "sidecar" else alarm_of(cfg, plan.run)
        halt = interrupt if cfg.alerts.halt else None
        found.append(PresentCallback(plan.run, publisher, where != "sidecar", alarm, halt))
    if publisher is not None:
        found.append(MirrorCallback(publisher))
    return found

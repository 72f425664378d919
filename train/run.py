"""One training run: check everything, build the parts, train, report.

    python -m train.run FILE     a configuration already resolved (this is what `launch` starts)

`prepare` does all that can fail for a user's mistake before any weight is loaded.
"""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from analysis.evaluate import Sampling
from analysis.monitor import WandbMirror, redact
from analysis.pairs import Pairs
from analysis.publish import Publisher
from analysis.records import atomic_write
from analysis.tasks import Problem
from analysis.tracker import HeadTracker, TrackingSettings
from train.build import (
    build_pairs,
    check_model,
    held_out_problems,
    peft_config,
    tracking_settings,
    training_args,
)
from train.checkpoints import is_finished, last_complete, step_of
from train.config import check, check_same_run, plain
from train.data import grpo_dataset, prompting, sft_dataset
from train.recipes import build_recipe
from train.rewards import find_rewards


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, checked, with no weight loaded yet."""

    cfg: DictConfig
    run: Path
    args: Any  # SFTConfig or GRPOConfig
    dataset: Any
    rewards: list[Any]
    peft: Any
    tracking: TrackingSettings | None
    problems: list[Problem]  # held out
    checkpoint: Path | None


@dataclass(frozen=True)
class Setup:
    """What a run takes from its model before the weights are loaded."""

    model_path: str
    tokenizer: Any
    pairs: Pairs | None


def prepare(cfg: DictConfig) -> Plan:
    """Check a configuration and build all that needs no weights.

    Raises:
        ValueError: saying what is wrong and how to mend it.
    """
    check(cfg)
    run = Path(cfg.run_dir)
    tracking = tracking_settings(cfg)
    rewards = find_rewards(list(cfg.train.rewards)) if cfg.train.kind == "grpo" else []
    args = training_args(cfg)
    if cfg.model.path is not None:
        check_model(cfg.model.path)
    if (run / "config.yaml").exists():
        saved = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        check_same_run(saved, redact(plain(cfg)))
    return Plan(
        cfg=cfg,
        run=run,
        args=args,
        dataset=(sft_dataset if cfg.train.kind == "sft" else grpo_dataset)(cfg.data),
        rewards=rewards,
        peft=peft_config(cfg),
        tracking=tracking,
        problems=held_out_problems(cfg),
        checkpoint=last_complete(run) if cfg.resume == "auto" else None,
    )


def _trainer(plan: Plan, setup: Setup) -> Any:
    from trl import GRPOTrainer, SFTTrainer

    shared = {
        "model": setup.model_path,
        "args": plan.args,
        "train_dataset": plan.dataset,
        "processing_class": setup.tokenizer,
        "peft_config": plan.peft,
    }
    if plan.cfg.train.kind == "sft":
        return SFTTrainer(**shared)
    return GRPOTrainer(**shared, reward_funcs=plan.rewards)


def _callbacks(plan: Plan, setup: Setup, publisher: Publisher | None) -> list[Any]:
    """Manifests come first: a checkpoint is declared whole before anything reads it.

    The publisher is the main process's; the others have none and only keep pace.
    """
    from train.callbacks import (
        HeadTrackingCallback,
        HeldOutCallback,
        LocalMetrics,
        PresentCallback,
    )

    cfg = plan.cfg
    found: list[Any] = [LocalMetrics(plan.run)]
    if plan.tracking is not None and setup.pairs is not None:
        tracker = HeadTracker(plan.run, setup.pairs, plan.tracking) if publisher else None
        found.append(HeadTrackingCallback(tracker, cfg.tracking.on_error))
    if plan.problems:
        e = cfg.evaluation
        sampling = Sampling(e.samples, e.temperature, e.top_p, e.max_new_tokens, e.batch_size)
        found.append(
            HeldOutCallback(plan.run, plan.problems, prompting(cfg.data), sampling, e.seed)
        )
    if publisher and len(found) > 1:
        found.append(PresentCallback(publisher))
    return found


def assemble(plan: Plan) -> Setup:
    """Find or build the model, read its tokenizer, and make the pairs; no weights are loaded yet.

    Raises:
        ValueError: the model can't be had, or the pairs can't be made of the problems.
    """
    import torch
    from accelerate import PartialState
    from transformers import AutoTokenizer

    cfg = plan.cfg
    if cfg.resources.threads is not None:
        torch.set_num_threads(cfg.resources.threads)
    with PartialState().main_process_first():
        model_path = cfg.model.path or str(build_recipe(cfg.model.recipe, cfg.model.seed))
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    pairs = build_pairs(cfg, tokenizer) if plan.tracking is not None else None
    return Setup(model_path, tokenizer, pairs)


def run(plan: Plan) -> None:
    """Train, with tracking at step 0 and at each save; leave a report in the run directory."""
    execute(plan, assemble(plan))


def execute(plan: Plan, setup: Setup) -> None:
    """`run`, with its parts assembled."""
    import datasets
    import transformers
    from accelerate import PartialState

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; the trainer's stays
    main = PartialState().is_main_process
    publisher = None
    if main:
        with atomic_write(plan.run / "config.yaml") as draft:
            draft.write_text(yaml.safe_dump(redact(plain(plan.cfg)), sort_keys=False))
        logger = plan.cfg.logger
        mirror = WandbMirror.start(
            plan.run, plan.cfg.name, logger.wandb_project, logger.wandb_mode, plain(plan.cfg)
        )
        mirror.announce()
        if mirror.directory is not None:
            plan.args.report_to = ["wandb"]
        publisher = Publisher(plan.run, mirror, logger.max_head_curves)
    callbacks = _callbacks(plan, setup, publisher)
    if plan.checkpoint is not None and is_finished(plan.checkpoint, plan.args):
        if main:
            _catch_up(plan, plan.checkpoint, setup.tokenizer, callbacks)
    else:
        _train(plan, setup, callbacks)
    if publisher:
        if plan.tracking is not None or plan.problems:
            _conclude(plan, publisher)
        publisher.mirror.finish()


def _train(plan: Plan, setup: Setup, callbacks: list[Any]) -> None:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from transformers.trainer_utils import set_seed

    from train.callbacks import Progress

    set_seed(plan.args.seed)
    trainer = _trainer(plan, setup)
    for bar in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(bar)
    for callback in [*([] if plan.args.disable_tqdm else [Progress()]), *callbacks]:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(plan.checkpoint) if plan.checkpoint else None)


def _catch_up(plan: Plan, checkpoint: Path, tokenizer: Any, callbacks: list[Any]) -> None:
    """Observe the last checkpoint of a finished run where a stop came between saving and observing.

    The trainer is not started: resumed at its last step, it would train one step more.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from train.callbacks import CheckpointCallback

    print(f"{plan.run} is finished at step {step_of(checkpoint)}; nothing is trained", flush=True)
    step = step_of(checkpoint)
    observers = [c for c in callbacks if isinstance(c, CheckpointCallback) and not c.is_done(step)]
    if observers:
        how = {"dtype": torch.float32, **(plan.args.model_init_kwargs or {})}
        model = AutoModelForCausalLM.from_pretrained(checkpoint, **how)
        for observer in observers:
            observer.observe(step, model, tokenizer)


def _conclude(plan: Plan, publisher: Publisher) -> None:
    """Print the table of checkpoints; what a stop has left unpublished is made up."""
    from analysis.present import present
    from analysis.table import checkpoint_rows, format_table, signal_name

    present(publisher)
    print(format_table(checkpoint_rows(plan.run), signal_name(plan.run)))
    print(f"report: {plan.run / 'report.html'}", flush=True)


def run_or_exit(cfg: DictConfig) -> None:
    """Prepare, assemble, execute; a user's mistake ends the process with one line and status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # TRL's calls
    try:
        plan = prepare(cfg)
        setup = assemble(plan)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    execute(plan, setup)


def load_resolved(path: Path) -> DictConfig:
    """A configuration that was composed and written before, checked against the schema."""
    from train.config import Config

    cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    assert isinstance(cfg, DictConfig)
    return cfg


if __name__ == "__main__":
    run_or_exit(load_resolved(Path(sys.argv[1])))

"""One training run: prepare it (train/plan.py), train, report.

python -m train.run FILE     a configuration already resolved (this is what `launch` starts)
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from omegaconf import DictConfig

from analysis.files import atomic_write
from analysis.live.compat import unsharded_loading
from analysis.logs import show_messages
from analysis.mistakes import Mistake, as_line, in_one_line, one_line, out_of_memory
from analysis.models.anatomy import base_model
from analysis.models.hub import split
from analysis.models.loading import name_hub_model
from analysis.prompts.template import stopped_clock
from analysis.records.checkpoints import Base
from analysis.records.locks import BEAT, EXPIRY, Held, Lock
from analysis.records.run_file import RunFile
from analysis.records.secrets import redact
from analysis.reporting.mirror import open_mirrors
from analysis.reporting.publish import Publisher
from analysis.tracking import distributed
from train.asking import prompting_of
from train.beforehand import check_tracked
from train.checkpoints import is_finished, step_of
from train.compat import without_hub
from train.config import load_resolved, plain
from train.disk import DiskFull, explained_if_full, is_full
from train.inputs import note_inputs
from train.plan import Plan, Setup, assemble, prepare
from train.resuming import clear, is_begun, is_same
from train.sharding import NotInForce, set_up
from train.trainer import build_callbacks, build_trainer

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl import GRPOTrainer, SFTTrainer

    from train.callbacks import PresentCallback

STOPPED = 10.0  # seconds that W&B has to end in when the run does not end as it should
SIGNALS = {"sft": "loss", "grpo": "reward"}  # what a training is followed by
LOCK_VARIABLE = "HEADLAB_LOCK"  # token of the launcher's lock, which passes to the main process


def run(plan: Plan) -> None:
    """Train, with tracking at step 0 and at each save; leave a report in the run directory."""
    with plan.world:
        execute(plan, assemble(plan))


def execute(plan: Plan, setup: Setup) -> None:
    """`run`, with its parts assembled.

    Raises:
        Held: another process runs this run.
        DiskFull: its file system takes no more.
    """
    from accelerate import PartialState

    from train.interrupt import restored_signals

    with restored_signals(), explained_if_full(plan.run):
        if not PartialState().is_main_process:
            _execute(plan, setup)
            return
        heir_of = os.environ.get(LOCK_VARIABLE)
        # a job that starts again may meet the lock of the node that failed, or of its own launcher
        patience = EXPIRY + 2 * BEAT if "SLURM_JOB_ID" in os.environ else 0.0
        lock = Lock.wait(
            plan.run / "locks" / "run", f"the run {plan.run}", patience, heir_of, say=True
        )
        with lock:
            _execute(plan, setup)


def _open(plan: Plan, setup: Setup) -> Publisher | None:
    """Claim the directory: write down what the run is, was told and was made from; open
    its loggers.

    Nothing is written before the trainer stands, and what a start left that took no step goes if
    its settings were others: a mistake that is mended leaves nothing behind.
    """
    cfg, now = plan.cfg, redact(plain(plan.cfg))
    if not is_begun(plan.run) and not is_same(plan.run, cfg, now):
        clear(plan.run)
    note_inputs(plan.run, cfg)
    with atomic_write(plan.run / "config.yaml") as draft:
        draft.write_text(yaml.safe_dump(now, sort_keys=False))
    logger = cfg.logger
    RunFile(
        name=cfg.name,
        kind=cfg.train.kind,
        signal=SIGNALS[cfg.train.kind],
        tracking=None if plan.tracking is None else asdict(plan.tracking),
        fdr=cfg.tracking.fdr,
        hysteresis=cfg.tracking.hysteresis,
        wandb_project=logger.wandb_project,
        max_head_curves=logger.max_head_curves,
        seed=cfg.seed,
        prompting=prompting_of(cfg, setup.tokenizer),
        parts=setup.parts,
    ).write(plan.run)
    if any(cfg.train.args.get(name) for name in ("chat_template_path", "eos_token")):
        setup.tokenizer.save_pretrained(plan.run / "tokenizer")
    how = {"mode": logger.wandb_mode, "workspace": logger.workspace}
    mirrors = open_mirrors(logger=logger.to, adopt=False, **how)
    publisher = Publisher.start(plan.run, mirrors)
    if publisher is not None:
        publisher.announce()
    return publisher


def _execute(plan: Plan, setup: Setup) -> None:
    """Claim the directory once the trainer stands; train, or observe what is left, and conclude.

    Raises:
        Stopped: the run was asked to stop, and saved.
    """
    from analysis.models.preserve import preserved

    finished = plan.checkpoint is not None and is_finished(plan.checkpoint, plan.args)
    quiet = nullcontext() if plan.args.push_to_hub else without_hub()
    with stopped_clock(setup.ask.day), quiet:  # the trainer renders the rows
        trainer = None if finished else _standing(plan, setup)
        model = None if trainer is None else trainer.model
        with nullcontext() if model is None else preserved(model):
            publisher = _open(plan, setup) if distributed.rank() == 0 else None
            callbacks = build_callbacks(plan, setup, publisher)
        try:
            _go(plan, setup, trainer, callbacks)
        except BaseException:
            if publisher is not None:
                publisher.conclude(STOPPED, exit_code=1)
            raise
    if publisher is not None:
        publisher.conclude()


def _go(
    plan: Plan,
    setup: Setup,
    trainer: SFTTrainer | GRPOTrainer | None,
    callbacks: list[TrainerCallback],
) -> None:
    """Train, or observe what is left of a finished run; then conclude.

    Raises:
        Stopped: the run was asked to stop, and saved.
    """
    from train.callbacks import PresentCallback
    from train.interrupt import Interrupt

    if trainer is not None:
        _train(plan, trainer, callbacks)
    else:
        assert plan.checkpoint is not None, "a run that is finished has one"
        _catch_up(plan, plan.checkpoint, setup, callbacks)
    interrupt = next(callback for callback in callbacks if isinstance(callback, Interrupt))
    if interrupt.stopping:
        if distributed.rank() == 0:
            print(f"{plan.run} is stopped; resume=auto goes on with it", flush=True)
        distributed.wait_for_all()  # torchrun ends the others when the first has ended
        raise interrupt.stopped()
    for callback in callbacks:
        if isinstance(callback, PresentCallback):
            _conclude(plan, callback)


def _standing(plan: Plan, setup: Setup) -> SFTTrainer | GRPOTrainer:
    """The trainer, with weights and rows; all that a library refuses of these is said here.

    Raises:
        Mistake: in one line.
    """
    from transformers.trainer_utils import set_seed

    if plan.args.deepspeed is not None:
        set_up(plan.args.use_cpu)
    set_seed(plan.args.seed)
    try:
        with in_one_line():
            trainer = build_trainer(plan, setup)
            if plan.tracking is not None and trainer.model is not None:
                check_tracked(trainer.model, plan.tracking.kv)
    except TypeError as error:  # of a model that has no such option
        for name in plan.args.model_init_kwargs or ():
            if f"unexpected keyword argument '{name}'" in str(error):
                raise Mistake(f"train.args.model_init_kwargs.{name}: {one_line(error)}") from error
        raise
    if setup.base.commit is not None:
        assert trainer.model is not None, "it was made from a path"
        inner = base_model(trainer.model)
        name_hub_model(inner, split(setup.base.path)[0], setup.base.commit)
    return trainer


def _train(plan: Plan, trainer: SFTTrainer | GRPOTrainer, callbacks: list[TrainerCallback]) -> None:
    """Train to the end.

    Raises:
        Mistake: before the first step as `as_line` says it; after it only for lack of memory, for
            then the settings were right, and a traceback tells what was not.
    """
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from train.callbacks import Progress
    from train.interrupt import make_workers_deaf
    from train.keeper import LocalMetrics
    from train.save_first import SaveFirst
    from train.states import weights_only

    for bar in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(bar)
    for callback in [*([] if plan.args.disable_tqdm else [Progress()]), *callbacks]:
        if hasattr(callback, "trainer"):
            callback.trainer = trainer
        if isinstance(callback, SaveFirst):
            callback.guard(trainer)
        if isinstance(callback, LocalMetrics):  # before those of the trainer's that may fail
            trainer.callback_handler.callbacks.insert(0, callback)
        else:
            trainer.add_callback(callback)
    make_workers_deaf(trainer)
    start = step_of(plan.checkpoint) if plan.checkpoint is not None else 0
    try:
        with weights_only(plan.checkpoint):
            trainer.train(resume_from_checkpoint=str(plan.checkpoint) if plan.checkpoint else None)
    except Exception as error:
        if is_full(error, plan.run):
            raise
        line = (out_of_memory if trainer.state.global_step > start else as_line)(error)
        if line is None:
            raise
        raise Mistake(line) from error


def _catch_up(plan: Plan, checkpoint: Path, setup: Setup, callbacks: list[TrainerCallback]) -> None:
    """Observe the last checkpoint of a finished run where a stop came between saving and observing.

    The trainer is not started: resumed at its last step, it would train one step more.
    """
    from analysis.live.head_observer import HeadObserver
    from analysis.live.observing import Observer
    from train.keeper import write_finished

    step = step_of(checkpoint)
    if distributed.rank() == 0:
        print(f"{plan.run} is finished at step {step}; nothing is trained", flush=True)
        write_finished(plan.run, step)
    observers = [
        c
        for c in callbacks
        if isinstance(c, Observer)
        and c.is_wanted(step, step)
        and not distributed.main_decides(lambda c=c: c.is_done(step))  # type: ignore[misc]
    ]
    if observers:
        base = Base.read(plan.run) or setup.base
        with unsharded_loading():
            model = base.load(checkpoint)
        for observer in observers:
            observer.observe(step, model, setup.tokenizer)
    for callback in callbacks:
        if isinstance(callback, HeadObserver):
            callback.make_up(step)


def _conclude(plan: Plan, shown: PresentCallback) -> None:
    """Print the table of checkpoints; what a stop has left unpublished is made up."""
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import Run

    shown.present()
    if plan.tracking is not None and plan.cfg.tracking.where == "sidecar":
        word = shlex.quote(f"run={plan.run}")
        print(f"to track the checkpoints: headlab sidecar {word}", flush=True)
        return
    print(format_table(Run.read(plan.run, shown.known)))
    print(f"report: {plan.run / 'report.html'}", flush=True)


def start(arguments: list[str]) -> None:
    """`python -m train.run FILE`: a file that is no configuration is one line and status 2."""
    try:
        if len(arguments) != 1:
            raise ValueError("name one file, a run's launch.yaml: python -m train.run FILE")
        cfg = load_resolved(arguments[0])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    run_or_exit(cfg)


def run_or_exit(cfg: DictConfig) -> None:
    """Prepare, assemble, execute; a user's mistake ends the process with one line and status 2."""
    if int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        cfg.resume = (
            "auto"  # the job was queued again, by submitit with the words of its first start
        )
    rank = os.environ.get("RANK", "0")
    main, error_prefix = rank == "0", "error" if rank == "0" else f"error (rank {rank})"
    show_messages(logging.INFO if main else logging.WARNING)
    for caller in ("transformers", "torch.distributed"):  # called by TRL and DeepSpeed
        warnings.filterwarnings("ignore", category=FutureWarning, module=caller)
    try:
        with in_one_line():
            plan = prepare(cfg)
            setup = assemble(plan)
    except Mistake as error:
        print(f"{error_prefix}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from train.interrupt import Stopped

    try:
        with plan.world:
            execute(plan, setup)
    except Stopped as stop:
        stop.pass_on()
        raise
    except (Mistake, Held, NotInForce, DiskFull) as error:
        print(f"{error_prefix}: {error}", file=sys.stderr)
        raise SystemExit(1 if isinstance(error, DiskFull) else 2) from None


if __name__ == "__main__":
    start(sys.argv[1:])

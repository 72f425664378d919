"""Start a training run, on this machine or through Slurm, in as many processes as there are GPUs.

    headlab launch train=grpo experiment=tiny
    headlab launch train=sft experiment=tiny resources.processes=2
    headlab launch train=grpo experiment=... resources=slurm resources.nodes=2 resources.gpus=8
    headlab launch --multirun train=sft experiment=tiny seed=0,1,2
    headlab launch bench --help      what tracking costs a trainer

The configuration is composed and checked once, here, and written into the run directory; the
processes get the resolved file, so that all of them see the same values.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import nearest
from analysis.mistakes import as_line
from train.entry import PointFailed, start

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMANDS = {"sidecar": "launch.sidecar", "bench": "launch.bench.command", "study": "launch.study"}


def action(cfg: DictConfig) -> None:
    """Launch, and end with the status of the run; a sweep goes on with its other points.

    Raises:
        SystemExit: with the status, unless it is 0.
        PointFailed: the same in a sweep.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        status = launch(cfg, sweeping)
        said = f"it ended with status {status}"
    except Exception as error:
        if (line := as_line(error)) is None:
            raise
        status, said = 2, str(error) if isinstance(error, ValueError) else line  # of many lines
        print(f"error: {said}", file=sys.stderr, flush=True)
    if status and sweeping:
        raise PointFailed(f"{cfg.run_dir}: {said}")
    if status:
        raise SystemExit(status)


def launch(cfg: DictConfig, sweeping: bool) -> int:
    """Check, take the run's lock, hand the resolved configuration to the run's processes.

    Nothing is written into the run directory before its lock is held.

    Returns:
        The status of the run, or of its submission.

    Raises:
        ValueError: saying what is wrong and how to mend it.
    """
    from analysis.records.locks import Lock
    from analysis.records.secrets import redact
    from analysis.reporting.wandb_mirror import run_id
    from launch import local, slurm
    from launch.preflight import preflight
    from launch.processes import local_node
    from train.config import check, plain

    run = Path(cfg.run_dir)
    config_file = run / "launch.yaml"
    refuse_if_in_use(run)
    check(cfg)
    queue = cfg.resources.kind == "slurm"
    if queue:
        slurm.check_job(cfg, run)
    values = redact(plain(cfg))
    if sweeping:
        refuse_another_point(config_file, values)
    if cfg.resources.preflight:
        for note in preflight(cfg):
            print(f"note: {note}", file=sys.stderr, flush=True)
    if cfg.resources.dry_run:
        words = [] if queue else local.local_command(cfg, local_node(cfg.resources), config_file)
        print(slurm.render(cfg, config_file) if queue else shlex.join(words))
        return 0
    with Lock.take(run / "locks" / "run", f"the run {run}") as lock:
        write(config_file, values | ({"resume": "auto"} if queue else {}))
        run_id(run, cfg.name)
        return (
            slurm.submit(cfg, config_file) if queue else local.start(cfg, config_file, lock.token)
        )


def refuse_if_in_use(run: Path) -> None:
    """Refuse to start a run that a process is running or that waits in a queue.

    Raises:
        ValueError: naming who has it.
    """
    from analysis.records.locks import Held, holder_of
    from launch.slurm import queued

    if (holder := holder_of(run / "locks" / "run")) is not None:
        raise Held(f"the run {run}", holder)
    if (job := queued(run)) is not None:
        raise ValueError(f"the run {run} is in the queue as job {job}; scancel {job} takes it out")


def refuse_another_point(config_file: Path, values: dict[str, Any]) -> None:
    """Refuse to take up a run directory that another point of a sweep has filled.

    Raises:
        ValueError: naming the parts of the configuration that differ; or its file is none.
    """
    from train.saved import read_settings

    if not config_file.exists():
        return
    saved = read_settings(config_file)
    parts = set(values) - {"resume", "resources", "logger", "alerts"}
    differing = sorted(part for part in parts if saved.get(part) != values[part])
    if differing:
        raise ValueError(
            f"{config_file.parent} holds a run with another {', '.join(differing)}; put the swept "
            "keys into the name, as in 'name=lr${train.args.learning_rate}-seed${seed}'"
        )


def write(config_file: Path, values: dict[str, Any]) -> None:
    """Write the resolved configuration that the processes get."""
    import yaml

    from analysis.files import atomic_write

    with atomic_write(config_file) as draft:
        draft.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """The command line."""
    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        importlib.import_module(COMMANDS[first]).main(arguments[1:])
    elif first.isidentifier():
        print(f"error: no command {first!r}; {nearest(first, COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    else:
        start(None, action, __doc__ or "", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Mirror to W&B what the local files of a run hold and W&B has not got yet.

    headlab publish run=runs/my-run

A training run does this itself after each checkpoint. The command is for what was left out: a run
that was offline, a W&B that failed or lost its server, checkpoints tracked afterwards. It logs each
checkpoint, evaluation and log of the trainer that W&B's server has not got, and none twice; offline
files that `wandb sync` has uploaded count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.cli import key

if TYPE_CHECKING:
    from analysis.trajectories.run import Run

PATIENCE = 1800.0  # seconds for W&B to take what is missing, while its server answers


@dataclass
class Options:
    run: str = key("directory of the run")
    project: str | None = key("W&B project; default: the one in the run's run.json", None)
    mode: str = key("online (needs an account), or offline: into a new offline run", "online")


def act(options: Options) -> None:
    """Log what is missing."""
    from analysis.records.locks import Lock, holder_of
    from analysis.reporting.wandb_mirror import has_account
    from analysis.trajectories.run import Run

    if options.mode not in ("online", "offline"):
        raise ValueError(f"mode is {options.mode!r}; choose online or offline")
    run = Run.read(options.run)
    if options.mode == "online" and not has_account():
        raise ValueError(
            "there is no W&B account on this machine; run `wandb login`, or set WANDB_API_KEY, "
            "or write an offline run with mode=offline"
        )
    if (trainer := holder_of(run.path / "locks" / "run")) is not None:
        raise ValueError(f"{run.path} is in use by {trainer}, which gives W&B its rows itself")
    with Lock.take(run.path / "locks" / "publish", f"what W&B has of {run.path}"):
        _publish(run, options)


def _publish(run: Run, options: Options) -> None:
    """Log what is missing, while nobody else does."""
    from analysis.reporting.publish import Publisher, missing
    from analysis.reporting.wandb_given import Given
    from analysis.reporting.wandb_mirror import server, silent_server

    if not missing(run, options.mode, Given.read(run.path)):
        print("nothing is missing")
        return
    reason = silent_server() if options.mode == "online" else None
    if reason is not None:
        raise ValueError(f"W&B at {server()} can't be reached: {reason}")
    publisher = Publisher.start(run.path, options.mode, options.project, strict=True)
    assert publisher is not None, "strict"
    steps = publisher.update(run)
    if left := publisher.finish(PATIENCE):
        raise ValueError(
            f"W&B ({publisher.mirror.reason}) may not have {len(left)} of {len(steps)} rows; the "
            "local records are complete: start this again"
        )
    if not steps:
        print("nothing is missing")
        return
    where = publisher.mirror.files
    print(f"logged {len(steps)} rows, steps {min(steps)} to {max(steps)}, to {where}")

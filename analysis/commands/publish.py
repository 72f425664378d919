"""Give loggers what the local files of a run hold and they have not got yet.

    headlab publish run=runs/my-run
    headlab publish run=runs/my-run to=tensorboard

A training run does this itself after each checkpoint. The command is for what was left out: a run
that was offline, a W&B that failed or lost its server, checkpoints tracked afterwards, another
logger than the run had. It logs each checkpoint, evaluation and log of the trainer that a logger
has not got, and none twice; offline files that `wandb sync` has uploaded count.

    headlab publish run=runs/my-run hub=ORG/NAME

puts records, pairs, trajectory, report and a card into a data set of the Hugging Face hub, in one
commit; compare and report read it as hub:ORG/NAME. It is made private unless private=false. The
token is the hub's own (HF_TOKEN, or `hf auth login`); checkpoints and secrets are not uploaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.cli import key

if TYPE_CHECKING:
    from analysis.reporting.mirror_protocol import Mirror
    from analysis.trajectories.run import Run


@dataclass
class Options:
    run: str = key("directory of the run")
    to: str = key(
        "wandb, trackio or tensorboard", "wandb", among=("wandb", "trackio", "tensorboard")
    )
    project: str | None = key("project there; default: the one in the run's run.json", None)
    workspace: bool | None = key("W&B: a view of the project; default: if it can be made", None)
    mode: str = key("W&B: online (needs an account), or offline: into a new offline run", "online")
    hub: str | None = key(
        "ORG/NAME of a data set on the Hugging Face hub, in place of a logger", None
    )
    private: bool = key("hub: a data set that is not there yet is made private", True)


def act(options: Options) -> None:
    """Log what is missing."""
    from analysis.records.locks import Lock, holder_of
    from analysis.reporting.mirror import open_mirrors
    from analysis.reporting.wandb_mirror import has_account
    from analysis.trajectories.run import Run

    if options.mode not in ("online", "offline"):
        raise ValueError(f"mode is {options.mode!r}; choose online or offline")
    run = Run.read(options.run)
    if options.hub is not None:
        from analysis.reporting import hub

        print(f"uploaded: {hub.publish(run, options.hub, options.private)}")
        return
    if options.to == "wandb" and options.mode == "online" and not has_account():
        raise ValueError(
            "there is no W&B account on this machine; run `wandb login`, or set WANDB_API_KEY, "
            "or write an offline run with mode=offline"
        )
    mode, project = options.mode, options.project
    [mirror] = open_mirrors(
        logger=options.to,
        adopt=False,
        mode=mode,
        project=project,
        strict=True,
        workspace=options.workspace,
    )
    if (trainer := holder_of(run.path / "locks" / "run")) is not None:
        raise ValueError(
            f"{run.path} is in use by {trainer}, which gives {mirror.label} its rows itself"
        )
    with Lock.take(run.path / "locks" / "publish", f"what loggers have of {run.path}"):
        _publish(run, mirror, options)


def _publish(run: Run, mirror: Mirror, options: Options) -> None:
    """Log what is missing, while nobody else does."""
    from analysis.reporting.publish import PATIENCE, Publisher, lacking
    from analysis.reporting.wandb_mirror import server, silent_server

    if not lacking(run, [mirror]) and not options.workspace:
        print("nothing is missing")
        return
    online = mirror.name == "wandb" and options.mode == "online"
    reason = silent_server() if online else None
    if reason is not None:
        raise ValueError(f"W&B at {server()} can't be reached: {reason}")
    mirror.start(run.path)
    publisher = Publisher(run.path, [mirror])
    steps = publisher.update(run, strict=True)
    if left := publisher.finish(PATIENCE):
        raise ValueError(
            f"{mirror.label} ({mirror.reason}) may not have {len(left)} of {len(steps)} rows; the "
            "local records are complete: start this again"
        )
    if not steps:
        print("nothing is missing")
        return
    print(f"logged {len(steps)} rows, steps {min(steps)} to {max(steps)}, to {mirror.place}")

"""Mirror to W&B what the local files of a run hold and W&B has not got yet.

    headlab publish run=runs/my-run

A training run does this itself after each checkpoint. The command is for what was left out: a run
that was offline, a W&B that failed, checkpoints tracked afterwards. It uploads the offline files of
the run that were never uploaded (as `wandb sync` does; they hold the trainer's own curves too),
then logs every checkpoint that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.cli import key


@dataclass
class Options:
    run: str = key("directory of the run")
    project: str | None = key("W&B project; default: the one in the run's run.json", None)
    mode: str = key("online (needs an account), or offline: into a new offline run", "online")


def act(options: Options) -> None:
    """Upload offline files, then log what is missing."""
    from analysis.reporting.publish import Publisher, adopt_offline, missing, upload_offline
    from analysis.reporting.wandb_mirror import has_account
    from analysis.trajectories.run import Run

    if options.mode not in ("online", "offline"):
        raise ValueError(f"mode is {options.mode!r}; choose online or offline")
    run = Run.read(options.run)
    if options.mode == "online":
        if not has_account():
            raise ValueError(
                "there is no W&B account on this machine; run `wandb login`, or set WANDB_API_KEY, "
                "or write an offline run with mode=offline"
            )
        for directory in upload_offline(run.path):
            print(f"uploaded {directory}")
        if list(run.path.glob("wandb/offline-run-*")):
            adopt_offline(run.path)
    if not missing(run, options.mode):
        print("nothing is missing")
        return
    publisher = Publisher.start(run.path, options.mode, options.project)
    if publisher is None:
        raise ValueError("W&B could not be started (see above); the local records are complete")
    steps = publisher.update(run)
    where = publisher.mirror.directory
    publisher.mirror.finish()
    if not steps:
        raise ValueError("W&B took nothing (see above); the local records are complete")
    print(f"logged {len(steps)} rows, steps {min(steps)} to {max(steps)}, to {where}")

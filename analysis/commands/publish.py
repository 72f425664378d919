"""Mirror to W&B what the local files of a run hold and W&B has not got yet.

    headlab publish run=runs/my-run

A training run does this itself after each checkpoint. The command is for what was left out: a run
that was offline, a W&B that failed, checkpoints tracked afterwards. It uploads the offline files of
the run that were never uploaded (as `wandb sync` does; they hold the trainer's own curves too),
then logs every checkpoint that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.cli import key


@dataclass
class Options:
    run: str = key("directory of the run")
    project: str | None = key("W&B project; default: the one in the run's run.json", None)
    mode: str = key("online (needs an account), or offline: into a new offline run", "online")


def act(options: Options) -> None:
    """Upload offline files, then log what is missing."""
    from analysis.records.run_file import RunFile, configuration
    from analysis.reporting.publish import Publisher, upload_offline
    from analysis.reporting.wandb_mirror import WandbMirror, has_account
    from analysis.trajectories.run import tracked_points

    run = Path(options.run)
    file = RunFile.read(run)
    if options.mode not in ("online", "offline"):
        raise ValueError(f"mode is {options.mode!r}; choose online or offline")
    points = tracked_points(run)
    if options.mode == "online":
        if not has_account():
            raise ValueError(
                "there is no W&B account on this machine; run `wandb login`, or set WANDB_API_KEY, "
                "or write an offline run with mode=offline"
            )
        for directory in upload_offline(run):
            print(f"uploaded {directory}")
        if list(run.glob("wandb/offline-run-*")):
            Publisher(run, WandbMirror(None)).adopt_offline()
    if not Publisher(run, WandbMirror(None)).missing(points, options.mode):
        print("nothing is missing")
        return
    project = options.project or file.wandb_project
    mirror = WandbMirror.start(run, file.name, project, options.mode, configuration(run))
    if mirror.directory is None:
        raise ValueError("W&B could not be started (see above); the local records are complete")
    publisher = Publisher(run, mirror, file.max_head_curves)
    steps = publisher.update(points)
    where = mirror.directory
    mirror.finish()
    if not steps:
        raise ValueError("W&B took nothing (see above); the local records are complete")
    print(f"logged {len(steps)} rows, steps {min(steps)} to {max(steps)}, to {where}")

"""Track the checkpoints of a run from a process of its own, beside the training or after it.

    headlab sidecar run=runs/my-run device=cuda:7

For runs with tracking.where=sidecar. It watches the run directory, which may be on a file system
shared with another machine, and may itself start before, during or after the training. A
checkpoint is tracked once it is complete, in the order of the steps; several sidecars share the
work. It ends when the training has ended and everything is tracked; wait=false does what is there.

The records are those that tracking inline would write. The report is brought up to date after each;
W&B gets them from the trainer at its next checkpoint, and what is left when the trainer has gone
from here, in the same W&B run.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cli import key
from analysis.cli import main as run_command
from analysis.live.watching import Found, Watched, follow
from analysis.ranges import COUNT, POSITIVE

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from analysis.live.schedule import Schedule
    from analysis.models.loading import Model
    from analysis.records.checkpoints import Base
    from analysis.tracking.tracker import HeadTracker


@dataclass
class Options:
    run: str = key("directory of the run; it may not exist yet")
    device: str = key("cpu, cuda:7, ...; default: a GPU if there is one", "auto")
    wait: bool = key("watch until the run has ended; false: do what is there, and end", True)
    poll: float = key("seconds between two looks at the directory", 5.0, POSITIVE)
    threads: int | None = key("threads of torch; default: torch's choice", None, COUNT)


@dataclass(frozen=True)
class Training:
    """The checkpoints of a run as far as its sidecar needs them."""

    run: Path
    cfg: DictConfig
    base: Base
    schedule: Schedule
    tracker: HeadTracker

    @classmethod
    def find(cls, run: Path) -> Training | None:
        """The run of a directory, or None if its training has not begun.

        Raises:
            ValueError: it is a run without tracking.
        """
        from analysis.live.schedule import Schedule
        from analysis.models.loading import load_tokenizer_if_any
        from analysis.prompts.pairs import Pairs
        from analysis.records.checkpoints import Base, own_tokenizer
        from analysis.records.run_file import WITNESS
        from analysis.tracking.tracker import HeadTracker
        from train.build import tracking_settings
        from train.config import load_resolved, plain

        base = Base.read(run)
        if base is None:
            return None
        if not (run / WITNESS).is_file():
            words = shlex.join([f"watch={run}", f"run={run}"])
            raise ValueError(
                f"{run} holds no {WITNESS}, so another trainer than headlab's writes it; "
                f"headlab track {words} tracks its checkpoints"
            )
        cfg = load_resolved(run / WITNESS)
        settings = tracking_settings(cfg)
        if settings is None:
            raise ValueError(f"{run} is trained with tracking=none; use headlab track")
        schedule = Schedule.parse(plain(cfg.tracking)["schedule"])
        tokenizer = load_tokenizer_if_any(own_tokenizer(run) or base.pinned)
        tracker = HeadTracker(run, Pairs.load(run / "pairs.jsonl"), settings, tokenizer)
        return cls(run, cfg, base, schedule, tracker)

    @property
    def last(self) -> int | None:
        """The last step, once the training has ended."""
        from train.keeper import finished_step

        return finished_step(self.run)

    @property
    def trainer_is_there(self) -> bool:
        from analysis.records.locks import holder_of

        return holder_of(self.run / "locks" / "run") is not None

    def pending(self) -> list[Found]:
        """Complete checkpoints, and the base, that have no record, by step."""
        from train.checkpoints import checkpoints, is_complete, is_interrupted, step_of

        last = -1 if self.last is None else self.last
        found = [Found(0, self.base.path)]
        for checkpoint in checkpoints(self.run):
            step = step_of(checkpoint)
            if not self.schedule.includes(step, last):
                continue
            if is_complete(checkpoint) and not is_interrupted(checkpoint):
                found.append(Found(step, checkpoint))
        return [each for each in found if not self.tracker.is_tracked(each.step)]

    @contextmanager
    def loaded(self, found: Found, device: str) -> Iterator[Model]:
        """The model of a checkpoint, or of the base, in the type of the training's weights."""
        yield self.base.load(Path(found.path) if found.step else None, device)

    def is_over(self, wait: bool) -> bool:
        """Whether the training has ended, if that is waited for."""
        return not wait or (self.last is not None and not self.trainer_is_there)

    def left_out(self) -> list[str]:
        """The incomplete checkpoints."""
        from train.checkpoints import checkpoints, is_complete

        return [
            f"{checkpoint} is incomplete (its saving was interrupted); it is passed over"
            for checkpoint in checkpoints(self.run)
            if not is_complete(checkpoint)
        ]


def _conclude(training: Training, watched: Watched) -> None:
    """Report and W&B rows of everything, once the trainer has gone, and the table."""
    from analysis.records.locks import Lock
    from analysis.reporting.mirror import open_mirrors
    from analysis.reporting.publish import Publisher, lacking
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import Run

    run, logger = watched.run, training.cfg.logger
    how = {"mode": logger.wandb_mode, "workspace": logger.workspace}
    mirrors = open_mirrors(logger=logger.to, adopt=False, **how)
    with Lock.wait(run / "locks" / "publish", f"what loggers have of {run}", float("inf")):
        wanted = lacking(Run.read(run, watched.known), mirrors)
        watched.publisher = Publisher.start(run, wanted)
        watched.show()
        if watched.publisher is not None:
            watched.publisher.conclude()
    print(format_table(Run.read(run, watched.known)))
    print(f"report: {run / 'report.html'}")


def _find(run: Path, options: Options) -> Training:
    """The run, waited for if it has not begun."""
    said = False
    while (training := Training.find(run)) is None:
        if not options.wait:
            raise ValueError(f"there is no run {run} whose training has begun")
        if not said:
            print(f"waiting for {run} to begin", flush=True)
            said = True
        time.sleep(options.poll)
    return training


def act(options: Options) -> None:
    """Watch the run to its end and conclude.

    Raises:
        ValueError: the run is tracked by its trainer, or some checkpoints could not be tracked.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from train.alarm import alarm_of

    transformers_logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    run = Path(options.run)
    training = _find(run, options)
    where = training.cfg.tracking.where
    if where != "sidecar" and training.trainer_is_there:
        raise ValueError(
            f"{run} is being tracked by its trainer (tracking.where={where}); "
            "start it with tracking.where=sidecar, or come back when it has ended"
        )
    watched = Watched(run, training, training.tracker, alarm=alarm_of(training.cfg, run))
    watched.needed = training.cfg.tracking.get("needed")  # not in older runs
    follow(watched, options.device, options.poll, options.wait)
    if not training.trainer_is_there:
        _conclude(training, watched)


def main(arguments: list[str]) -> None:
    """The command line."""
    run_command(Options, __doc__ or "", act, arguments)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])

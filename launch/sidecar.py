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

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cli import key
from analysis.cli import main as run_command
from analysis.ranges import COUNT, POSITIVE

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from analysis.live.schedule import Schedule
    from analysis.records.checkpoints import Base
    from analysis.reporting.publish import Publisher
    from analysis.tracking.tracker import HeadTracker
    from analysis.trajectories.trajectory import Known

log = logging.getLogger(__name__)


@dataclass
class Options:
    run: str = key("directory of the run; it may not exist yet")
    device: str = key("cpu, cuda:7, ...; default: a GPU if there is one", "auto")
    wait: bool = key("watch until the run has ended; false: do what is there, and end", True)
    poll: float = key("seconds between two looks at the directory", 5.0, POSITIVE)
    threads: int | None = key("threads of torch; default: torch's choice", None, COUNT)


@dataclass(frozen=True)
class Watched:
    """A run as far as its sidecar needs it."""

    run: Path
    cfg: DictConfig
    base: Base
    schedule: Schedule
    tracker: HeadTracker
    known: Known = field(default_factory=dict)  # of the trajectory, for the next page

    @classmethod
    def find(cls, run: Path) -> Watched | None:
        """The run of a directory, or None if its training has not begun.

        Raises:
            ValueError: it is a run without tracking.
        """
        from analysis.live.schedule import Schedule
        from analysis.models.loading import load_tokenizer_if_any
        from analysis.prompts.pairs import Pairs
        from analysis.records.checkpoints import Base, own_tokenizer
        from analysis.tracking.tracker import HeadTracker
        from train.build import tracking_settings
        from train.config import load_resolved, plain

        base = Base.read(run)
        if base is None:
            return None
        cfg = load_resolved(run / "config.yaml")
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

    def pending(self) -> list[tuple[int, Path | None]]:
        """Steps with a complete checkpoint (None: the base) and no record, in order."""
        from train.checkpoints import checkpoints, is_complete, is_interrupted, step_of

        last = -1 if self.last is None else self.last
        found: list[tuple[int, Path | None]] = [(0, None)]
        for checkpoint in checkpoints(self.run):
            step = step_of(checkpoint)
            if not self.schedule.includes(step, last):
                continue
            if is_complete(checkpoint) and not is_interrupted(checkpoint):
                found.append((step, checkpoint))
        return [(step, path) for step, path in found if not self.tracker.is_tracked(step)]

    def track(self, step: int, checkpoint: Path | None, device: str) -> bool:
        """Track a step unless another process does; whether it was done here.

        Raises:
            ValueError: the checkpoint can't be loaded.
        """
        from analysis.records.locks import Held, Lock

        try:
            claim = Lock.take(self.run / "locks" / f"step-{step:06d}", f"step {step}")
        except Held:
            return False
        with claim:
            if self.tracker.is_tracked(step):
                return False
            print(f"step {step}: {checkpoint or self.base.path}", flush=True)
            self.tracker.track(self.base.load(checkpoint, device), step)
        return True

    @property
    def trainer_is_there(self) -> bool:
        from analysis.records.locks import holder_of

        return holder_of(self.run / "locks" / "run") is not None


def _show(watched: Watched, publisher: Publisher | None = None) -> None:
    from analysis.records.locks import Lock
    from analysis.reporting.present import present

    run = watched.run
    with Lock.wait(run / "locks" / "present", f"the report of {run}", float("inf")):
        present(run, publisher, known=watched.known)


def _conclude(watched: Watched) -> None:
    """Report and W&B rows of everything, once the trainer has gone, and the table."""
    from analysis.records.locks import Lock
    from analysis.reporting.publish import Publisher, missing
    from analysis.reporting.tables import format_table
    from analysis.reporting.wandb_mirror import resolve_mode
    from analysis.trajectories.run import Run

    run, publisher = watched.run, None
    mode = resolve_mode(watched.cfg.logger.wandb_mode)
    with Lock.wait(run / "locks" / "publish", f"what W&B has of {run}", float("inf")):
        if mode != "disabled" and missing(Run.read(run, watched.known), mode):
            publisher = Publisher.start(run, mode)
        _show(watched, publisher)
        if publisher is not None:
            publisher.conclude()
    print(format_table(Run.read(run, watched.known)))
    print(f"report: {run / 'report.html'}")


def watch(options: Options) -> Watched:
    """Wait for the run, track what comes until it has ended; the run.

    Raises:
        ValueError: the run is tracked by its trainer, or some checkpoints could not be tracked.
    """
    from train.checkpoints import checkpoints, is_complete

    run = Path(options.run)
    watched = _find(run, options)
    if watched.cfg.tracking.where != "sidecar" and watched.trainer_is_there:
        raise ValueError(
            f"{run} is being tracked by its trainer (tracking.where={watched.cfg.tracking.where}); "
            "start it with tracking.where=sidecar, or come back when it has ended"
        )
    # one checkpoint at a time, until the trainer has gone and nothing is left
    failed: dict[int, str] = {}
    while True:
        todo = [(step, path) for step, path in watched.pending() if step not in failed]
        worked = False
        for step, checkpoint in todo:
            try:
                worked = watched.track(step, checkpoint, options.device)
            except (ValueError, RuntimeError) as error:
                failed[step] = str(error)
                log.error("step %d can't be tracked: %s", step, error)
            if worked:
                _show(watched)
                break  # look again: what came meanwhile may be earlier than the rest
        over = watched.last is not None and not watched.trainer_is_there
        if not worked and not todo and (over or not options.wait):
            break
        if not worked:
            if not options.wait:
                break
            time.sleep(options.poll)
    # what will never be tracked is said
    for checkpoint in checkpoints(run):
        if not is_complete(checkpoint):
            log.warning(
                "%s is incomplete (its saving was interrupted); it is passed over", checkpoint
            )
    if failed:
        raise ValueError(f"{len(failed)} checkpoints could not be tracked: {sorted(failed)}")
    return watched


def _find(run: Path, options: Options) -> Watched:
    """The run, waited for if it has not begun."""
    said = False
    while (watched := Watched.find(run)) is None:
        if not options.wait:
            raise ValueError(f"there is no run {run} whose training has begun")
        if not said:
            print(f"waiting for {run} to begin", flush=True)
            said = True
        time.sleep(options.poll)
    return watched


def act(options: Options) -> None:
    """Watch the run to its end and conclude."""
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    watched = watch(options)
    if not watched.trainer_is_there:
        _conclude(watched)


def main(arguments: list[str]) -> None:
    """The command line."""
    run_command(Options, __doc__ or "", act, arguments)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])

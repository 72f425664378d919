"""Which checkpoints are complete: a manifest, written last, names their files and sizes.

A checkpoint of an interrupted run says so in its manifest: it is there to resume from, is never
tracked, and goes when the next one is complete.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.files import write_json
from analysis.live.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from transformers import TrainingArguments

log = logging.getLogger(__name__)

WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")


def write_manifest(checkpoint: Path, interrupted: bool = False, tokens: int | None = None) -> None:
    """Declare a checkpoint complete. tokens: how many the training has seen, if it counts them."""
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    content = {"schema": 1, "interrupted": interrupted, "tokens": tokens, "files": files}
    write_json(checkpoint / MANIFEST, content)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has a manifest and every file that it names, at its size."""
    manifest = Manifest.read(checkpoint)
    return manifest is not None and manifest.is_kept(checkpoint)


def is_interrupted(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved because its run was asked to stop."""
    manifest = Manifest.read(checkpoint)
    return manifest is not None and manifest.interrupted


def tokens_seen(checkpoint: Path) -> int | None:
    """How many tokens the training had seen at a checkpoint, if that was counted."""
    manifest = Manifest.read(checkpoint)
    return None if manifest is None else manifest.tokens


def has_weights(checkpoint: Path) -> bool:
    """Whether a checkpoint holds weights, or an adapter, in safetensors."""
    return any(next(checkpoint.glob(pattern), None) is not None for pattern in WEIGHTS)


def is_finished(checkpoint: Path, args: TrainingArguments) -> bool:
    """Whether training arguments ask for no step beyond a checkpoint."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if args.max_steps > 0:
            return bool(state["global_step"] >= args.max_steps)
        return bool(state["epoch"] >= args.num_train_epochs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{checkpoint}/trainer_state.json can't be read ({error}); remove {checkpoint}, and "
            "resume=auto goes on from the one before it"
        ) from error


def check_processes(checkpoint: Path, processes: int) -> None:
    """Raise ValueError unless a checkpoint was saved by a number of processes: each has its rows.

    DeepSpeed could not resume it with another number at all.
    """
    saved = len(list(checkpoint.glob("rng_state_*.pth"))) or 1
    if saved != processes:
        raise ValueError(
            f"{checkpoint} was saved by {saved} processes, and with {processes} the run would not "
            "be the same; start as many as before (resources.nodes times resources.processes)"
        )


def can_go_on_from(checkpoint: Path) -> bool:
    """Whether a checkpoint holds all that a run needs to go on as the same run.

    Beside weights: the states of optimizer, schedule and random numbers, and the trainer's own.
    Under DeepSpeed, which names its newest state in the file `latest`, they are in that.
    """
    needed = ["trainer_state.json"]
    if not (checkpoint / "latest").is_file():
        needed += ["optimizer.pt", "scheduler.pt"]
    there = all((checkpoint / name).is_file() for name in needed)
    return there and any(checkpoint.glob("rng_state*.pth"))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint directories of a run, complete or not, by step."""
    found = [p for p in run.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=step_of)


def last_complete(run: Path) -> Path | None:
    """The newest complete checkpoint of a run; incomplete ones are passed over with a message."""
    return next(_complete(run), None)


def _complete(run: Path) -> Iterator[Path]:
    """The complete checkpoints of a run, the newest first."""
    for checkpoint in reversed(checkpoints(run)):
        if is_complete(checkpoint):
            yield checkpoint
        else:
            log.warning(
                "%s is incomplete (its saving was interrupted); it is passed over", checkpoint
            )


def last_to_go_on_from(run: Path, args: TrainingArguments) -> Path | None:
    """The newest checkpoint that a run can go on from, or that ends it; None without checkpoints.

    Raises:
        ValueError: all that there are hold weights only.
    """
    newest = None
    for checkpoint in _complete(run):
        newest = newest or checkpoint
        if can_go_on_from(checkpoint) or (checkpoint == newest and is_finished(checkpoint, args)):
            return checkpoint
        log.warning("%s holds no state of the optimizer; it is passed over", checkpoint)
    if newest is not None:
        raise ValueError(
            f"{newest} holds no state of the optimizer (train.args.save_only_model=true), so the "
            "run can't go on as the same run; start another from its weights: model=hub "
            f"model.path={newest} name=..."
        )
    return None


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, its manifest first, so that it is never half there and complete."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def tidy(run: Path, keep: int | None, may_go: Callable[[int], bool], best: str | None) -> None:
    """Remove the checkpoints that the newest complete one makes unnecessary.

    An older checkpoint that was saved for an interruption always goes. Of the regular ones stay:
    the newest `keep` (None: all), the best one, and each that is still to be tracked.

    Args:
        may_go: whether a step's checkpoint is no longer needed for tracking.
        best: path of the checkpoint that the trainer calls its best, if it keeps one.
    """
    complete = [c for c in checkpoints(run) if is_complete(c)]
    regular = [c for c in complete if not is_interrupted(c)]
    for checkpoint in complete[:-1]:
        if checkpoint not in regular:
            discard(checkpoint)
    for checkpoint in regular[:-keep] if keep else []:
        is_best = best is not None and Path(best).resolve() == checkpoint.resolve()
        if not is_best and may_go(step_of(checkpoint)):
            discard(checkpoint)

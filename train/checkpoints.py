"""Which checkpoints are complete: a manifest, written last, names their files and sizes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from analysis.records import write_json

log = logging.getLogger(__name__)

MANIFEST = "headlab.json"


def write_manifest(checkpoint: Path) -> None:
    """Declare a checkpoint complete."""
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(checkpoint / MANIFEST, {"schema": 1, "files": files})


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has a manifest and every file that it names, at its size."""
    manifest = checkpoint / MANIFEST
    if not manifest.exists():
        return False
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size
        for name, size in files.items()
    )


def is_finished(checkpoint: Path, args: Any) -> bool:
    """Whether training arguments ask for no step beyond a checkpoint."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    if args.max_steps > 0:
        return bool(state["global_step"] >= args.max_steps)
    return bool(state["epoch"] >= args.num_train_epochs)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def last_complete(run: Path) -> Path | None:
    """The newest complete checkpoint of a run; incomplete ones are passed over with a message."""
    for checkpoint in sorted(run.glob("checkpoint-*"), key=step_of, reverse=True):
        if is_complete(checkpoint):
            return checkpoint
        log.warning("%s is incomplete (its saving was interrupted); it is passed over", checkpoint)
    return None

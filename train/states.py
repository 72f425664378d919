"""The states that a resumed training reads: tensors and plain values, never code.

They are pickles, and a pickle may run anything while it is read. So every one is read with torch's
reader of weights only, which makes objects of listed classes and refuses all others. A manifest
with hashes would prove less: it lies in the same directory as the states.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.compat import classes_in_states

# torch heeds them even where a caller asks for more; both at once it refuses.
FORCED, LIFTED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def weights_only(checkpoint: Path | None) -> Iterator[None]:
    """Inside, whatever torch loads holds weights and the listed classes only."""
    import torch

    before = {name: os.environ.pop(name) for name in (FORCED, LIFTED) if name in os.environ}
    os.environ[FORCED] = "1"
    try:
        with torch.serialization.safe_globals(classes_in_states(_is_deepspeed(checkpoint))):
            yield
    finally:
        del os.environ[FORCED]
        os.environ.update(before)


def _is_deepspeed(checkpoint: Path | None) -> bool:
    return checkpoint is not None and (checkpoint / "latest").is_file()


def _check_sums(path: Path) -> None:
    """Compare a file with the check sums that torch wrote into it; one process reads for all.

    torch itself loads a tensor with a flipped bit without a word.

    Raises:
        ValueError: a part of it has changed since.
    """
    if os.environ.get("RANK", "0") != "0" or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as parts:
        damaged = parts.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged} has changed since it was written")


def check_states(checkpoint: Path) -> None:
    """Look into the states of a checkpoint, without making any object of them.

    Raises:
        ValueError: one holds an object of a class that is not listed, or can't be read.
    """
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint

    states = [p for p in checkpoint.rglob("*") if p.suffix in (".pt", ".pth") and p.is_file()]
    with torch.serialization.safe_globals(classes_in_states(_is_deepspeed(checkpoint))):
        for path in sorted(states):
            try:
                unknown = get_unsafe_globals_in_checkpoint(str(path))
                _check_sums(path)
            except Exception as error:  # a zip file or a pickle can be broken in any way
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ValueError(
                    f"{path} can't be read ({reason}); remove {checkpoint}, and resume=auto goes "
                    "on from the one before it"
                ) from None
            if unknown:
                raise ValueError(
                    f"{path} holds an object of {unknown[0]}, which no state of a training has; "
                    f"it is not loaded, since that could run any code. If {checkpoint} is not "
                    "your own, don't use it; remove it, and resume=auto goes on from the one "
                    "before it"
                )

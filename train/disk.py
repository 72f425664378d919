"""A full disk, said in plain words: libraries name it in many ways, and some not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.checkpoints import last_complete

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LITTLE = 2**20


class DiskFull(Exception):
    """The run's file system takes no more."""


def is_full(error: BaseException, directory: Path) -> bool:
    """Whether an error comes of a full disk: by its number, its words, or what is left there."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if any(f"os error {number}" in str(error) for number in FULL):
        return True  # of safetensors
    there = next(path for path in (directory, *directory.parents) if path.exists())
    return shutil.disk_usage(there).free < LITTLE  # torch.save only says that writing failed


@contextmanager
def explained_if_full(run: Path) -> Iterator[None]:
    """Turn an error that comes of a full disk into one that says so and how to go on.

    Raises:
        DiskFull: naming the last complete checkpoint.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error, run):
            raise
        last = last_complete(run)
        kept = f"{last} is complete" if last else "no checkpoint was complete yet"
        raise DiskFull(
            f"no space is left for {run} ({shutil.disk_usage(run).free:,} bytes free); {kept}. "
            "Free some space, or keep fewer checkpoints (train.args.save_total_limit=2), and go on "
            "with resume=auto"
        ) from error

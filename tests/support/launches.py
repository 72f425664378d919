"""`headlab launch` on this machine: its words, its environment, and when its processes end."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.places import ROOT

SMALL = [
    "train=sft",
    "model=tiny_random",
    "data.size=64",
    "logger=none",
    "pairs.size=4",
    "tracking.resamples=10",
    "tracking.ig_steps=2",
    "evaluation=none",
    "train.args.max_steps=4",
    "train.args.save_steps=2",
    "train.args.logging_steps=1",
    "train.args.disable_tqdm=true",
    "train.args.per_device_train_batch_size=4",
    "resources.gpus=0",
]
Launch = Callable[..., subprocess.CompletedProcess[str]]


def variables(*first_on_path: Path) -> dict[str, str]:
    path = os.pathsep.join([*map(str, first_on_path), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "MY_API_KEY": "planted-secret"}


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def processes_in(directory: Path) -> list[int]:
    """The processes that work in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (path / "cwd").resolve(strict=True) == directory and not is_over(int(path.name)):
                found.append(int(path.name))
    return found

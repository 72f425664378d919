"""Checkpoints of trainers as files: safetensors of a few numbers, and shards that nobody reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WHOLE = "model.safetensors"


def write_weights(directory: Path, shards: int = 1, config: bool = True) -> Path:
    """A model's directory: one file, or an index and its shards."""
    directory.mkdir(parents=True, exist_ok=True)
    if config:
        (directory / "config.json").write_text("{}")
    if shards == 1:
        save_file({"a": np.ones(2, np.float32)}, directory / WHOLE)
        return directory
    names = {f"t{i}": f"model-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)}
    for tensor, name in names.items():
        save_file({tensor: np.ones(2, np.float32)}, directory / name)
    index = {"metadata": {}, "weight_map": names}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def write_adapter(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text("{}")
    save_file({"a": np.ones(2, np.float32)}, directory / "adapter_model.safetensors")
    return directory


def touch(*files: Path) -> None:
    """Empty files, with the directories that they are in."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def date(place: Path, seconds: float) -> None:
    """Set the time of a file, or of all files below a directory."""
    for file in (p for p in (place, *place.rglob("*")) if p.is_file()):
        os.utime(file, (seconds, seconds))

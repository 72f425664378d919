"""Where a number comes from: hashes of weights and adapter, versions of the code, configuration."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analysis.files import hash_of_parts, short_hash
from analysis.models.anatomy import base_model

_ADAPTER = ("lora_", "modules_to_save", "ia3_", "vera_", "prompt_encoder")


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, by name: 16 hex digits."""

    def parts() -> Iterator[bytes | memoryview]:
        for name, tensor in sorted(tensors.items()):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    return hash_of_parts(parts())


def weight_hashes(model: nn.Module) -> dict[str, str | None]:
    """Hashes of the base weights and of the adapter (None without one).

    The base's hash is the same whether an adapter is attached to the model or not.
    """
    base, adapter = {}, {}
    for name, tensor in model.named_parameters():
        if any(part in name for part in _ADAPTER):
            adapter[name.removeprefix("base_model.model.").replace(".default.", ".")] = tensor
        else:
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            base[plain] = tensor
    return {"weights": _digest(base), "adapter": _digest(adapter) if adapter else None}


@cache
def code_version() -> dict[str, str]:
    """Versions of headlab (with its git commit, if there is one) and of what it runs on."""
    names = ("headlab", "torch", "transformers", "peft")
    found = {name: metadata.version(name) for name in names if _installed(name)}
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        changed = "+changes" if _git(root, "status", "--porcelain", "--", "analysis") else ""
        found["commit"] = commit[:12] + changed
    return found


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git(directory: Path, *arguments: str) -> str:
    try:
        command = ["git", "-C", str(directory), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def config_hash(run: Path) -> str | None:
    """Hash of a run's configuration file, if there is one: 16 hex digits."""
    path = run / "config.yaml"
    return short_hash(path.read_bytes()) if path.exists() else None


def describe(model: nn.Module, run: Path) -> dict[str, Any]:
    """The origin of a record: model, code, configuration."""
    inner = base_model(model)
    return {
        "model": {
            "type": inner.config.model_type,
            "path": str(getattr(inner.config, "_name_or_path", "")),
            "dtype": str(next(inner.parameters()).dtype).removeprefix("torch."),
            **weight_hashes(model),
        },
        "code": code_version(),
        "config": config_hash(run),
    }

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
from analysis.models.compat import unwrapped
from analysis.models.onload import Weight, packed, weights_of

_COMPILED = "_orig_mod."  # of the parameters in a layer that torch.compile is around
_PREFIX = "base_model.model."  # of the base's parameters in a PEFT model
# where PEFT's layers keep what they wrap
_WRAPPED = ("base_layer.", "original_module.", "token_adapter.base_layer.")


def _digest(weights: Mapping[str, Weight]) -> str:
    """SHA-256 over names, types, shapes and bytes, by name: 16 hex digits."""

    def parts() -> Iterator[bytes | memoryview]:
        for name in sorted(weights):
            with weights[name].read() as tensor:
                for part in packed(tensor):
                    yield f"{name} {part.dtype} {tuple(part.shape)}\n".encode()
                    yield part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    return hash_of_parts(parts())


def _name_in_base(name: str, layers: set[str], has_adapters: bool) -> str | None:
    """What a parameter is called in the base model; None for one of an adapter.

    layers: names of the modules that PEFT put in the place of others.
    """
    if has_adapters and name.startswith("base_model.") and not name.startswith(_PREFIX):
        return None  # shared by an adapter's layers
    parts = name.split(".")
    for end in range(1, len(parts)):
        layer = ".".join(parts[:end])
        if layer not in layers:
            continue
        inside = name[len(layer) + 1 :]
        wrapped = next((start for start in _WRAPPED if inside.startswith(start)), None)
        if wrapped is None:
            return None
        plain = f"{layer}.{inside.removeprefix(wrapped)}"
        return plain.removeprefix(_PREFIX)
    return name.removeprefix(_PREFIX)


def weight_hashes(model: nn.Module) -> dict[str, str | None]:
    """Hashes of the base weights and of the adapter (None without one).

    The base's hash is the same whether an adapter is attached to the model or not.
    """
    model = unwrapped(model)
    layers = {
        name.replace(_COMPILED, "")
        for name, part in model.named_modules()
        if hasattr(part, "adapter_layer_names")
    }
    base, adapter = {}, {}
    for name, weight in weights_of(model):
        name = name.replace(_COMPILED, "")
        plain = _name_in_base(name, layers, hasattr(model, "peft_config"))
        if plain is None:
            adapter[name.removeprefix(_PREFIX).replace(".default.", ".")] = weight
        else:
            base[plain] = weight
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
    commit = getattr(inner.config, "_commit_hash", None)  # of a hub model that is not trained yet
    return {
        "model": {
            "type": inner.config.model_type,
            "path": str(getattr(inner.config, "_name_or_path", "")),
            **({} if commit is None else {"commit": commit}),
            "dtype": str(next(inner.parameters()).dtype).removeprefix("torch."),
            **weight_hashes(model),
        },
        "code": code_version(),
        "config": config_hash(run),
    }

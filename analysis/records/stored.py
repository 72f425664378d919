"""Tensors in files that are named by their content: KIND-<hash>.safetensors.

A file is checked once, as a whole: its hash against its name, and its tensors against the shapes
that they must have. Then they are read when they are asked for and not kept, so that hundreds of
records take no memory. (safetensors maps a file, so what is not looked at is not read.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

_NAME = re.compile(r"[a-z]+-([0-9a-f]{16})\.safetensors")
_checked: set[tuple[str, int, int, int]] = set()  # path, inode, size and time of files found right

Shapes = Mapping[str, tuple[torch.dtype, tuple[int | None, ...]]]  # None: any, the same everywhere


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of a file."""

    path: Path

    def __getitem__(self, name: str) -> torch.Tensor:
        """A tensor, read now.

        Raises:
            ValueError: the file is gone or damaged.
        """
        try:
            with safe_open(self.path, "pt") as tensors:
                found: torch.Tensor = tensors.get_tensor(name)
                return found
        except Exception as error:  # safetensors names its errors in a class of its own
            raise ValueError(_damaged(self.path, error)) from error

    def check(self, shapes: Shapes) -> None:
        """Raise ValueError unless the file holds what its name says, and tensors of these forms."""
        _check_hash(self.path)
        try:
            with safe_open(self.path, "pt") as tensors:
                names = set(tensors.keys())
                found = {name: _form(tensors.get_slice(name)) for name in names & set(shapes)}
        except Exception as error:  # safetensors names its errors in a class of its own
            raise ValueError(_damaged(self.path, error)) from error
        if missing := sorted(set(shapes) - names):
            raise ValueError(f"{self.path} has no tensor {missing[0]!r}; track this step again")
        rows = None
        for name, (dtype, wanted) in shapes.items():
            kind, shape = found[name]
            if None in wanted and shape:
                rows = shape[0] if rows is None else rows
            expected = tuple(rows if size is None else size for size in wanted)
            if (kind, shape) != (_KINDS[dtype], expected):
                raise ValueError(
                    f"{self.path}: {name} is {kind} {list(shape)} where record.json asks for "
                    f"{_KINDS[dtype]} {list(expected)}; track this step again"
                )


_KINDS = {
    torch.float16: "F16",
    torch.float32: "F32",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.bool: "BOOL",
}


def _form(found: object) -> tuple[str, tuple[int, ...]]:
    return found.get_dtype(), tuple(found.get_shape())  # type: ignore[attr-defined]


def _damaged(path: Path, error: object) -> str:
    reason = " ".join(str(error).split())
    return f"{path} is damaged ({reason}); track this step again"


def _check_hash(path: Path) -> None:
    """Raise ValueError unless the content of a file is what its name says; read once as it is."""
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise ValueError(
            f"{path.with_name('record.json')} names {path.name!r}, which is no file of a record"
        )
    try:
        about = path.stat()
        key = (str(path), about.st_ino, about.st_size, about.st_mtime_ns)
        if key in _checked:
            return
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except FileNotFoundError:
        raise ValueError(
            f"record.json names {path}, which is missing; track this step again"
        ) from None
    except OSError as error:
        raise ValueError(_damaged(path, error.strerror)) from error
    if found != named[1]:
        raise ValueError(_damaged(path, f"its content has the hash {found}"))
    _checked.add(key)

"""Files that appear under their names only when they are whole, and hashes of what they hold."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

F = TypeVar("F")

CLAIMS: list[Callable[[], None]] = []  # of the locks that this process holds


def check_claims() -> None:
    """What comes before everything that is written beside others' files: are the locks still ours?

    Does not return if one was lost (analysis/records/locks.py).
    """
    for check in CLAIMS:
        check()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to; rename it to `path` on success, remove it on failure."""
    check_claims()
    path.parent.mkdir(parents=True, exist_ok=True)
    # in containers that share a directory, two processes may have one number
    draft = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(3).hex()}.partial")
    try:
        yield draft
        with open(draft, "rb") as written:
            os.fsync(written.fileno())
        check_claims()
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; a last line that a crash cut is closed first."""
    check_claims()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as lines:
        if lines.tell() > 0:
            lines.seek(-1, os.SEEK_END)
            if lines.read(1) != b"\n":
                lines.write(b"\n")
        lines.write(f"{line}\n".encode())


def to_json(value: object, **how: Any) -> str:
    """The JSON of a value; how: of `json.dumps`. What JSON has no number for, NaN and infinity, is
    null: files are read by others, which refuse anything else."""
    return json.dumps(_finite(value), allow_nan=False, **how)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, as `to_json` has it."""
    with atomic_write(path) as draft:
        draft.write_text(to_json(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, form: type[F]) -> F:
    """What a JSON file holds, as `form`: a dataclass, or another type that msgspec knows.

    Keys that a dataclass does not have are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be read, is no JSON or has another form; in one line, with the key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_int=_integer)
    except FileNotFoundError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} can't be read ({error})") from error
    return as_form(content, form, path)


def _integer(digits: str) -> int:
    number = int(digits)
    if abs(number) >= 2**63:
        raise ValueError(f"{digits[:12]}... is no number that was written")
    return number


def as_form(content: object, form: type[F], path: Path) -> F:
    """What was read from a file, as `read_json` has it."""
    try:
        return msgspec.convert(content, form)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


class OtherSchema(ValueError):
    """A file that another version has written."""


def check_schema(content: dict[str, Any], schema: int, path: Path, mend: str) -> None:
    """Raise OtherSchema, with the mend, unless a file says that it is of a schema."""
    if content.get("schema") != schema:
        raise OtherSchema(
            f"{path} has schema {content.get('schema')} and this version reads {schema}; {mend}"
        )


def short_hash(content: str | bytes, digits: int = 16) -> str:
    """The first hex digits of the SHA-256 of a text (as UTF-8) or of bytes."""
    return hash_of_parts([content.encode() if isinstance(content, str) else content], digits)


def hash_of_parts(parts: Iterable[bytes | memoryview], digits: int = 16) -> str:
    """`short_hash` of bytes that come one part after another, as from files too large to hold."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:digits]

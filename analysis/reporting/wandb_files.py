"""What W&B's own files of a run hold: the rows in RUN/wandb/*run-*/run-ID.wandb.

W&B writes each row there, online and offline, before it goes anywhere else. The form is LevelDB's
log: blocks of 32 KiB, in them chunks with a header of 7 bytes (checksum, length, kind), and a
record is one chunk, or a first, middle and last ones. The file begins with 7 bytes of W&B's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "headlab/row"  # the value of a row that says which one it is: its name, a space, its digest
_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class Row:
    """A row in a file. step: its place in the W&B run, from 0 on, of all rows of all sessions."""

    step: int
    name: str
    digest: str


def sessions(run: Path) -> list[Path]:
    """The directories of W&B in a run, one a session, the oldest first."""
    return _ordered((run / "wandb").glob("*run-*"))


def sessions_of(session: Path) -> list[Path]:
    """Those of the same W&B run as one, which is among them, the oldest first."""
    there = session.parent.glob("*run-*")
    return _ordered(path for path in there if _id_of(path) == _id_of(session))


def _id_of(session: Path) -> str:
    """ID, of run-DATE_TIME-ID or offline-run-DATE_TIME-ID."""
    return session.name.removeprefix("offline-").split("-", 2)[-1]


def _ordered(found: Iterable[Path]) -> list[Path]:
    there = [path for path in found if not path.is_symlink()]
    return sorted(there, key=lambda path: path.name.removeprefix("offline-"))


def is_offline(session: Path) -> bool:
    return session.name.startswith("offline-")


def is_uploaded(session: Path) -> bool:
    """Whether `wandb sync` has uploaded a session."""
    return any(session.glob("*.wandb.synced"))


def rows(session: Path) -> list[Row]:
    """The rows with a mark that a session's file holds; the end of one that was cut is left out."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in sorted(session.glob("*.wandb")):
        for content in _records(file.read_bytes()):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            try:
                record.ParseFromString(content)
            except DecodeError:
                continue
            if record.WhichOneof("record_type") != "history":
                continue
            for item in record.history.item:
                if MARK in (item.key, "/".join(item.nested_key)):
                    name, _, digest = str(json.loads(item.value_json)).rpartition(" ")
                    found.append(Row(record.history.step.num, name, digest))
    return found


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file of W&B, as far as they are whole."""
    at, parts = _HEADER, b""
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # too short for a header: filled with zeros
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data = content[at + _HEADER : at + _HEADER + length]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(data) < length:
            return
        parts = data if kind in (_FULL, _FIRST) else parts + data
        if kind in (_FULL, _LAST):
            yield parts
        at += _HEADER + length

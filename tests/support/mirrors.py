"""A W&B that is not there: its files as W&B writes them, and a stand-in for its process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


def write_session(directory: Path, rows: Sequence[Mapping[str, Any]], first: int = 0) -> Path:
    """A directory of W&B whose file holds rows, counted from `first`; the file."""
    from wandb.proto import wandb_internal_pb2

    records = []
    for step, row in enumerate(rows, start=first):
        record = wandb_internal_pb2.Record()
        record.history.step.num = step
        for name, value in row.items():
            record.history.item.add(nested_key=[name], value_json=json.dumps(value))
        records.append(record.SerializeToString())
    content = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        content += _chunks(record, len(content))
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"run-{directory.name.rpartition('-')[2]}.wandb"
    file.write_bytes(content)
    return file


def _chunks(record: bytes, at: int) -> bytes:
    """A record as chunks that cross no border of a block; the checksums are left out."""
    out, kinds, start = b"", [], 0
    while True:
        left = BLOCK - (at + len(out)) % BLOCK
        if left < HEADER:
            out += bytes(left)
            continue
        part = record[start : start + left - HEADER]
        start += len(part)
        last = start >= len(record)
        kind = (1 if last else 2) if not kinds else (4 if last else 3)
        kinds.append(kind)
        out += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
        if last:
            return out


class FakeMirror:
    """Stands for a `WandbMirror`: keeps the rows and writes W&B's file when it is finished.

    server: how many rows it has at first. whole: whether the server gets those of this session.
    """

    count = 0

    def __init__(self, run: Path, mode: str = "offline", server: int = 0, whole: bool = True):
        FakeMirror.count += 1
        prefix = "offline-run" if mode == "offline" else "run"
        self.mode, self.starting_step, self.whole = mode, server, whole
        self.files = run / "wandb" / f"{prefix}-2026{FakeMirror.count:04}_0-id"
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.is_alive = True
        self.reason = "it was taken away"
        self.entity = self.project = ""

    def log(self, values: Mapping[str, Any], pictures: Any = (), tables: Any = ()) -> None:
        self.rows.append({**values, **dict(pictures), **dict(tables)})

    def has_room(self, wait: float = 0) -> bool:
        return True

    def summarise(self, values: Mapping[str, Any]) -> None:
        self.summary.update(values)

    def finish(self, limit: float = 0, exit_code: int = 0) -> bool:
        self.is_alive = False
        write_session(self.files, self.rows, self.starting_step)
        return self.whole

"""What the trainer logged: RUN/metrics.jsonl, one JSON object a line, with step and time."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from analysis.files import check_claims, to_json


def append_metrics(run: Path, step: int, values: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`, with the time; a line that a crash cut is closed first.

    `time` is that of the call, in seconds since 1970.
    """
    line = to_json({"step": step, "time": time.time(), **values})
    check_claims()
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "metrics.jsonl", "a+b") as lines:
        if lines.tell() > 0:
            lines.seek(-1, os.SEEK_END)
            if lines.read(1) != b"\n":
                lines.write(b"\n")
        lines.write(f"{line}\n".encode())


def read_metrics(run: Path) -> dict[int, dict[str, Any]]:
    """Logged values by step, without their times; null, which stands for no number, is NaN.

    Later lines win (a resumed run); one that a crash cut short is passed over.
    """
    merged: dict[int, dict[str, Any]] = {}
    path = run / "metrics.jsonl"
    if not path.exists():
        return merged
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            row.pop("time", None)
            row = {name: math.nan if value is None else value for name, value in row.items()}
            merged.setdefault(row.pop("step"), {}).update(row)
    return merged

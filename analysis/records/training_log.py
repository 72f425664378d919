"""What the trainer logged: RUN/metrics.jsonl, one JSON object a line, with step and time."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

from analysis.files import append_line, to_json

log = logging.getLogger(__name__)


def append_metrics(run: Path, step: int, values: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`, with the time; a line that a crash cut is closed first.

    `time` is that of the call, in seconds since 1970.
    """
    append_line(run / "metrics.jsonl", to_json({"step": step, "time": time.time(), **values}))


def read_metrics(run: Path) -> dict[int, dict[str, Any]]:
    """Logged values by step, without their times; null, which stands for no number, is NaN.

    Later lines win (a resumed run). One that a crash cut short is passed over, and one that is no
    object with a step too, with a warning.

    Raises:
        ValueError: the file can't be read.
    """
    merged: dict[int, dict[str, Any]] = {}
    path = run / "metrics.jsonl"
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return merged
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror})") from error
    wrong = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # mostly one that a crash cut short
            if line.strip() and not line.startswith(b'{"step": '):
                wrong.append(number)
            continue
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            wrong.append(number)
            continue
        row.pop("time", None)
        row = {name: math.nan if value is None else value for name, value in row.items()}
        merged.setdefault(row.pop("step"), {}).update(row)
    if wrong:
        log.warning("%s, line %s: left out, as it is no log of a step", path, _some(wrong))
    return merged


def series(run: Path, metrics: dict[int, dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """Step and value of one name of `read_metrics`.

    What is no number is left out, with a warning.
    """
    found, wrong = [], []
    for step, values in sorted(metrics.items()):
        if name not in values:
            continue
        value = values[name]
        try:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError
            found.append((step, float(value)))
        except (ValueError, OverflowError):
            wrong.append(step)
    if wrong:
        path = run / "metrics.jsonl"
        log.warning("%s: %s of step %s left out, as it is no number", path, name, _some(wrong))
    return found


def _some(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5])) + more

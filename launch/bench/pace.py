"""How fast a run went, read from what it left: RUN/metrics.jsonl and RUN/heads/step-*/record.json.

Each line of the metrics holds `time`, the moment of the log. With logging at every step, the time
from one log to the next is that of one step, plus whatever was done between the two: a trainer
logs, then evaluates, then saves and tracks, so that the interval that begins at a saved step holds
the save. Throughput between saves is 1 / median of the intervals that are left without those and
without the first WARM_UP.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WARM_UP = 3  # steps: memory pools, kernels and caches fill


@dataclass(frozen=True)
class Pace:
    """One run: its log lines by step, the seconds of its training and of each tracking in it.

    training: from before step 0 is tracked until the last step is saved (TRL's `train_runtime`).
    """

    lines: dict[int, dict[str, Any]]
    training: float
    tracked: list[float]

    def steps_per_second(self, save_steps: int) -> float:
        """Throughput between saves, every `save_steps` steps.

        Raises:
            ValueError: no interval is left.
        """
        times = {step: line["time"] for step, line in self.lines.items()}
        saved = [step for step in times if step % save_steps == 0]
        found = intervals(times, saved)
        if not found:
            raise ValueError(
                f"no step lies between saves and after the first {WARM_UP} steps; "
                "give more steps, or a larger save_steps"
            )
        return 1 / statistics.median(found)


def intervals(times: dict[int, float], saved: Collection[int]) -> list[float]:
    """Seconds of each step without a save between it and the one before, warm-up dropped."""
    return [
        times[step + 1] - times[step]
        for step in sorted(times)
        if step >= WARM_UP and step not in saved and step + 1 in times
    ]


def read_pace(run: Path) -> Pace:
    """The pace of a finished run; of a step that a resumed run logs again, the later line.

    A line that a crash cut short and a record marked invalid are passed over.

    Raises:
        ValueError: the run has not finished.
    """
    lines, training = {}, None
    with open(run / "metrics.jsonl", encoding="utf-8") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if "loss" in line:  # a step's own; the last line of a run has none
                lines[line["step"]] = line
            training = line.get("train_runtime", training)
    if training is None:
        raise ValueError(f"{run / 'metrics.jsonl'} has no train_runtime: the run did not finish")
    paths = sorted((run / "heads").glob("step-*/record.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return Pace(lines, training, [r["seconds"] for r in records if "seconds" in r])


def difference(a: Pace, b: Pace, exact: bool) -> str | None:
    """Where two runs did not do the same work: the first step whose tokens or loss differ.

    exact: losses must be equal to the last bit; else only tokens are compared.
    """
    names = ("num_tokens", "loss") if exact else ("num_tokens",)
    for step in sorted({*a.lines, *b.lines}):
        rows = [pace.lines.get(step, {}) for pace in (a, b)]
        for name in names:
            values = [row.get(name) for row in rows]
            if values[0] != values[1] or values[0] is None:
                return f"{name} of step {step} is {values[0]} and {values[1]}"
    return None

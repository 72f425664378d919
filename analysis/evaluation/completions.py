"""Judged answers in a JSONL file, so that an evaluation that was killed goes on where it was.

    {"problem": 3, "sample": 0, "text": "...", "tokens": 57, "truncated": false,
     "correct": true, "failure": null}

A line is written whole or is passed over: one that a crash cut short is closed when the file is
opened again, and its answer drawn anew. As an answer's randomness is its own
(analysis/evaluation/sampling.py) and batches are always cut alike, the finished file holds the same
answers either way.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.evaluation.sampling import Completion, Request
from analysis.evaluation.verify import Verdict
from analysis.files import check_claims, to_json


@dataclass(frozen=True)
class Judged:
    """An answer and what the verifier said of it."""

    text: str
    tokens: int
    truncated: bool
    correct: bool
    failure: str | None


class Completions:
    """The answers of one condition; with no path they are kept in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._found: dict[tuple[int, int], Judged] = {}
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with open(path, "ab") as lines:
                lines.write(b"\n")
        for line in content.splitlines():
            try:
                row: dict[str, Any] = json.loads(line)
                place = int(row.pop("problem")), int(row.pop("sample"))
                self._found[place] = Judged(**row)
            except (ValueError, KeyError, TypeError):
                continue

    def __len__(self) -> int:
        return len(self._found)

    def has(self, request: Request) -> bool:
        return (request.problem, request.sample) in self._found

    def add(
        self,
        requests: Sequence[Request],
        completions: Sequence[Completion],
        verdicts: Sequence[Verdict],
    ) -> None:
        """Keep the answers of a batch that are not there yet, on the disk as well."""
        lines = []
        for request, completion, verdict in zip(requests, completions, verdicts, strict=True):
            if self.has(request):
                continue
            judged = Judged(**vars(completion), **vars(verdict))
            place = {"problem": request.problem, "sample": request.sample}
            lines.append(to_json({**place, **vars(judged)}) + "\n")
            self._found[request.problem, request.sample] = judged
        if self.path is not None:
            check_claims()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())

    def right(self, problems: int, samples: int) -> np.ndarray:
        """Which answers are right: bool [problems, samples].

        Raises:
            KeyError: an answer is missing.
        """
        places = [[(p, s) for s in range(samples)] for p in range(problems)]
        return np.array([[self._found[place].correct for place in row] for row in places])

    @property
    def truncated(self) -> int:
        return sum(judged.truncated for judged in self._found.values())

    @property
    def failures(self) -> dict[str, int]:
        """How many answers could not be judged, by reason."""
        return dict(Counter(j.failure for j in self._found.values() if j.failure))

"""What loggers without an account of their own were given: RUN/mirrors.jsonl, a line a row.

A line is added once the logger has taken the row. Of a row that was given again the last one
counts, and a line that a crash cut is passed over: its row is given again.
"""

from __future__ import annotations

import json
from pathlib import Path

from analysis.files import append_line, to_json

FILE = "mirrors.jsonl"


class Ledger:
    """The rows that one destination has of a run.

    to: the destination: `tensorboard:DIRECTORY`, `trackio:...`, `wandb:RUN`.
    """

    def __init__(self, run: Path, to: str) -> None:
        self.path = run / FILE
        self.to = to
        self.rows: dict[str, str] = {}  # name -> digest

    def read(self) -> dict[str, str]:
        """Read what was given so far."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return self.rows
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and found.get("to") == self.to:
                self.rows[str(found.get("row"))] = str(found.get("digest"))
        return self.rows

    def add(self, row: str, digest: str) -> None:
        """Note a row that was given."""
        append_line(self.path, to_json({"to": self.to, "row": row, "digest": digest}))
        self.rows[row] = digest

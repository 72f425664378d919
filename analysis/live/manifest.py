"""The file that declares a checkpoint of headlab's trainers complete: its files with their sizes.

It is written last. Whoever writes it is in train/checkpoints.py; whoever watches reads it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.files import read_json

MANIFEST = "headlab.json"


@dataclass(frozen=True)
class Manifest:
    """files: their sizes in bytes. interrupted: it was saved because its run was asked to stop.

    tokens: how many the training had seen, if that was counted.
    """

    files: dict[str, int]
    interrupted: bool = False
    tokens: int | None = None

    @classmethod
    def read(cls, checkpoint: Path) -> Manifest | None:
        """That of a checkpoint; None if there is none that can be read."""
        try:
            return read_json(checkpoint / MANIFEST, cls)
        except (FileNotFoundError, ValueError):
            return None

    def is_kept(self, checkpoint: Path) -> bool:
        """Whether every file that it names is there, at its size."""
        try:
            return all((checkpoint / n).stat().st_size == size for n, size in self.files.items())
        except FileNotFoundError:
            return False

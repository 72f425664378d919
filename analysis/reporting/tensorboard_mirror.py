"""TensorBoard as a mirror: RUN/runs/headlab, beside what a trainer of transformers writes.

`tensorboard --logdir RUN` shows both. With TENSORBOARD_LOGGING_DIR, where transformers then
writes, it is a directory there.
"""

from __future__ import annotations

import io
import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.records.run_file import RunFile
from analysis.reporting.ledger import Ledger
from analysis.reporting.mirror_protocol import FINISH, Mirror
from analysis.reporting.rows import Entry, Media
from analysis.reporting.text import markdown_table

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def log_directory(run: Path) -> Path:
    """Where the rows of a run are written."""
    shared = os.environ.get("TENSORBOARD_LOGGING_DIR")
    if shared:
        return Path(shared).expanduser() / f"headlab-{RunFile.read(run).name}"
    return run / "runs" / "headlab"


def open_ledger(run: Path) -> tuple[Path, Ledger]:
    """Where the rows of a run are written, and what is there.

    A directory with files of which the run knows nothing is another training's, and another one is
    taken. Of one whose files were removed nothing is known.
    """
    first, number = log_directory(run), 1
    while True:
        place = first if number == 1 else first.with_name(f"{first.name}-{number}")
        inside = place.is_relative_to(run)  # a run that was moved takes it along
        name = place.relative_to(run) if inside else place.resolve()
        ledger = Ledger(run, f"tensorboard:{name}")
        if not any(place.glob("events.out.tfevents.*")):
            return place, ledger
        if ledger.read():
            return place, ledger
        number += 1


class TensorBoard(Mirror):
    """Writes event files; a row counts as given when they are flushed."""

    name, label = "tensorboard", "TensorBoard"

    def __init__(self, training: bool = True) -> None:
        self.training = training
        self.directory = Path()
        self.ledger: Ledger | None = None
        self._writer: SummaryWriter | None = None

    def start(self, run: Path) -> bool:
        self.directory, self.ledger = open_ledger(run)
        self.place = str(self.directory)
        return True

    def known(self, run: Path) -> Mapping[str, str]:
        return (self.ledger or open_ledger(run)[1]).rows

    def log(self, step: Entry, values: Mapping[str, Any], media: Media) -> None:
        import numpy as np
        from PIL import Image
        from torch.utils.tensorboard import SummaryWriter

        assert self.ledger is not None, "it is started"
        writer = self._writer = self._writer or SummaryWriter(str(self.directory))
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                writer.add_scalar(name, value, step.step)
        for name, png in media.pictures.items():
            pixels = np.asarray(Image.open(io.BytesIO(png)))
            writer.add_image(name, pixels, step.step, dataformats="HWC")
        for name, (titles, rows) in media.tables.items():
            writer.add_text(name, "\n".join(markdown_table([titles, *rows])), step.step)
        writer.flush()
        self.ledger.add(step.name, step.digest)

    def finish(self, limit: float = FINISH, exit_code: int = 0) -> list[str]:
        if self._writer is not None:
            self._writer.close()
        return []

    def announce(self) -> None:
        print(f"TensorBoard: tensorboard --logdir {shlex.quote(str(self.directory))}", flush=True)

    def alert(self, title: str, text: str) -> None:
        if self._writer is not None:
            self._writer.add_text("alerts", f"**{title}** {text}")
            self._writer.flush()

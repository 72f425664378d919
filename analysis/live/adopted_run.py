"""The run that tracking keeps in the output directory of a trainer that is not headlab's.

It is a run like any other: run.json, base.json, pairs, records, metrics.jsonl, trajectory.json and
report.html (docs/architecture.md), so that RUN@STEP, `headlab report`, `compare` and `evaluate`
work on it. Everything here is the main process's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis.files import write_json
from analysis.live.earlier import put_aside
from analysis.live.taken import enters
from analysis.models.provenance import weight_hashes
from analysis.records.checkpoints import Base
from analysis.records.locks import Lock
from analysis.records.record import Record
from analysis.records.record_files import read_record, recorded_steps
from analysis.records.run_file import RunFile
from analysis.records.training_log import append_metrics
from analysis.reporting.alerts import Alarm
from analysis.reporting.present import write_pages
from analysis.reporting.publish import Publisher
from analysis.reporting.rows import head_values
from analysis.trajectories.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from analysis.models.loading import Model
    from analysis.reporting.mirror_protocol import Mirror
    from analysis.tracking.tracker import HeadTracker
    from analysis.trajectories.trajectory import Known

log = logging.getLogger(__name__)

SOON = 10.0  # seconds


@contextmanager
def warned(what: str) -> Iterator[None]:
    """Inside, what fails is logged: a training does not end for what shows it."""
    try:
        yield
    except Exception:
        log.exception("%s", what)


class AdoptedRun:
    """A run that is open for one training. values: of the newest checkpoint, by their names."""

    def __init__(
        self,
        file: RunFile,
        tracker: HeadTracker,
        step: int,
        mirrors: Sequence[Mirror],
        alerts: Sequence[str] = (),
        webhook: str | None = None,
    ) -> None:
        """Take the directory: nobody else may train in it.

        step: the one that the training begins with. mirrors: what shows the run, not started yet.
        alerts, webhook: see analysis/reporting/alerts.py.

        Raises:
            Held: another process does.
        """
        self.path = tracker.run
        self.file = file
        self.tracker = tracker
        self.step = step
        self.publisher: Publisher | None = None
        self.alarmed = False  # whether an alert was raised in this training
        self._mirrors = mirrors
        self._alarm = partial(Alarm, tracker.run, alerts, webhook)
        self.known: Known = {}
        self.values: dict[str, float] = {}
        self._lock = Lock.take(self.path / "locks" / "run", f"the run {self.path}")

    def begin(
        self, model: Model, base: Base | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        """Put aside what is another training's, and write down what this one is.

        Raises:
            ValueError: the training is resumed, and its records were measured otherwise.
        """
        settings = self.tracker.settings.of_record()

        def is_ours(record: Record) -> bool:
            measured = record.settings == settings and record.pairs_hash == self.tracker.pairs.hash
            its = record.origin.get("model") or {}
            return measured and weight_hashes(model).items() <= its.items()

        put_aside(self.path, self.step, is_ours)
        self._check_settings(settings)
        self.tracker.start()
        self.file.write(self.path)
        (self.path / "finished.json").unlink(missing_ok=True)
        if base is not None:
            write_json(self.path / "base.json", vars(base))
        if tokenizer is not None:
            tokenizer.save_pretrained(self.path / "tokenizer")
        self.alarm = self._alarm()  # it reads which alerts there were
        self.publisher = Publisher.start(self.path, self._mirrors)
        if self.publisher is not None:
            self.publisher.announce()

    def _check_settings(self, settings: dict[str, Any]) -> None:
        for step in recorded_steps(self.path / "heads")[:1]:
            record = read_record(self.path, step)
            if record is not None and record.settings != settings:
                differ = [
                    f"{name}={record.settings.get(name)!r}"
                    for name, value in settings.items()
                    if record.settings.get(name) != value
                ]
                raise ValueError(
                    f"{self.path} was tracked with other settings; give HeadTracking "
                    f"{', '.join(differ)}, or another run_dir"
                )

    def log(self, step: int, logs: dict[str, Any]) -> None:
        """Keep what the trainer logs. A run that logs a reward is followed by it."""
        own = {k: v for k, v in logs.items() if not enters(k.removeprefix("eval_"))}
        numbers = {k: v for k, v in own.items() if isinstance(v, int | float)}
        with warned(f"what step {step} logs is not kept"):
            append_metrics(self.path, step, numbers)
            if "reward" in numbers and self.file.signal != "reward":
                self.file = replace(self.file, signal="reward")
                self.file.write(self.path)
        if self.publisher is not None:
            self.publisher.training(step, numbers)

    def show(self) -> dict[str, float]:
        """Bring the pages up to date with the records; the values of the newest checkpoint."""
        with warned(f"the report of {self.path} could not be written; its records are safe"):
            run = Run.read(self.path, self.known)
            if run.points:
                found = head_values(run.points, 0)
                kept = {name: value for name, value in found.items() if enters(name)}
                self.values = {"heads/step": run.points[-1].step, **kept}
            if self.publisher is not None:
                self.publisher.update(run)
            write_pages(run)
            if self.alarm.look(run, self.publisher):
                self.alarmed = True
        return self.values

    def end(self, step: int) -> None:
        """Say that the training has ended with a step."""
        with warned(f"{self.path} does not say that it has ended"):
            write_json(self.path / "finished.json", {"step": step})
        if self.publisher is not None:
            self.publisher.conclude()
            self.publisher = None
        if self.values:
            print(f"heads of {self.path.name}: {self.path / 'report.html'}", flush=True)

    def close(self) -> None:
        """Leave the directory to others; of a training that broke off, mirrors end soon."""
        if self.publisher is not None:
            self.publisher.conclude(SOON, exit_code=1)
        self._lock.release()

"""A directory that any trainer writes checkpoints to, as a `Source` of whole ones.

A checkpoint is whole when its weights are: index and all shards there, with headers that fit the
files' lengths, and either the trainer says so (`is_declared`) or nothing in the checkpoint has
changed for a stated time. It is looked at again after it was read: one that was removed or written
anew meanwhile is not measured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.live.forms import (
    checkpoints_below,
    files_below,
    foreign,
    holds_weights,
    series_of,
    step_in,
    weights_in,
)
from analysis.live.manifest import Manifest
from analysis.live.watching import Found, Gone
from analysis.models.adapters import ADAPTER_WEIGHTS
from analysis.models.weights import header, stored_tensors

if TYPE_CHECKING:
    from analysis.models.loading import Model
    from analysis.tracking.tracker import HeadTracker

log = logging.getLogger(__name__)

# Files that trainers write last, in the checkpoint or beside its weights: prime-rl, open-instruct,
# and transformers, whose state comes after weights, optimizer and random states.
DONE = ("STABLE", "COMPLETED", "trainer_state.json")
# Files beside the checkpoints that name the newest whole one: verl, Megatron and slime; SkyRL
NEWEST = ("latest_checkpointed_iteration.txt", "latest_ckpt_global_step.txt")

Signature = tuple[tuple[str, int, int], ...]


def signature(checkpoint: Path) -> Signature:
    """Names, sizes and times of the files of a checkpoint; those that are just going are left out.

    It is empty where there is no such directory.
    """
    found = []
    for file in files_below(checkpoint):
        try:
            stat = file.stat()
        except OSError:
            continue
        found.append((str(file.relative_to(checkpoint)), stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def check_weights_there(weights: Path) -> None:
    """Raise ValueError unless a directory's weights are there: index, shards, headers, lengths."""
    if (weights / ADAPTER_WEIGHTS).is_file() and (weights / "adapter_config.json").is_file():
        header(weights / ADAPTER_WEIGHTS)
    else:
        stored_tensors(weights)


def is_declared(checkpoint: Path, weights: Path) -> bool:
    """Whether the trainer says that a checkpoint is whole, after it wrote the weights.

    A file that says so and is older than the weights was there before they were written anew.
    """
    if (manifest := Manifest.read(checkpoint)) is not None:
        return manifest.is_kept(checkpoint)
    try:
        written = max(file.stat().st_mtime_ns for file in weights.iterdir() if file.is_file())
    except (OSError, ValueError):
        return False
    places = {checkpoint, weights, weights.parent} if weights != checkpoint else {checkpoint}
    if any(_is_later(place / name, written) for place in places for name in DONE):
        return True
    step = step_in(checkpoint.name)
    return any(
        _is_later(file, written) and _number(file) >= (step or 0)
        for file in (checkpoint.parent / name for name in NEWEST)
    )


def _is_later(file: Path, written: int) -> bool:
    try:
        return file.stat().st_mtime_ns >= written
    except OSError:
        return False


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return -1


@dataclass
class Directory:
    """The checkpoints of a directory that somebody writes to; a `Source`.

    root: the directory, or a glob of checkpoints. base: the model of step 0. load: the model of a
    directory (None: the base), on a device. settle: seconds without a change after which a
    checkpoint counts. last: the step after which none is waited for.
    """

    root: Path
    base: str
    load: Callable[[Path | None, str], Model]
    tracker: HeadTracker
    settle: float
    last: int | None = None
    _series: tuple[Path, str] | None = None
    _first_epoch: int | None = None
    _readable: set[Path] = field(default_factory=set)  # that have, or had, safetensors
    _said: set[str] = field(default_factory=set)
    _seen: dict[Path, tuple[Signature, float]] = field(default_factory=dict)
    # of the last look:
    _whole: dict[int, tuple[Path, Path, Signature]] = field(default_factory=dict)
    _unfinished: dict[Path, str] = field(default_factory=dict)
    _unreadable: dict[int, str] = field(default_factory=dict)
    _settling: bool = False

    def pending(self) -> list[Found]:
        """Whole checkpoints, and the base, that have no record, by step.

        Raises:
            ValueError: there are checkpoints of several trainings, at the first look.
        """
        self._look()
        found = [Found(step, weights) for step, (_, weights, _) in sorted(self._whole.items())]
        steps = [Found(0, self.base), *found]
        return [each for each in steps if not self.tracker.is_tracked(each.step)]

    def _look(self) -> None:
        """Look at every checkpoint that has no record."""
        self._whole, self._unfinished, self._unreadable = {}, {}, {}
        self._settling = False
        there = checkpoints_below(self.root)
        self._choose_series(there)
        meant = [path for path in there if self._series in (None, series_of(path))]
        for path in meant:
            step = self._step(path, meant)
            if step == 0:
                self._say(f"{path} is passed over: step 0 is base={self.base}")
            elif not self.tracker.is_tracked(step):
                self._look_at(path, step)
        self._seen = {path: seen for path, seen in self._seen.items() if path in meant}

    def _choose_series(self, there: list[Path]) -> None:
        """Settle which checkpoints are meant: those of the one series that has readable weights."""
        self._readable |= {p for p in there if p not in self._readable and _has_weights(p)}
        readable = dict.fromkeys(series_of(path) for path in there if path in self._readable)
        if self._series is None and len(readable) > 1:
            names = ", ".join(str(parent / name) for parent, name in readable)
            raise ValueError(
                f"{self.root} holds checkpoints of {len(readable)} trainings or kinds ({names}); "
                "watch the directory of one, or a glob such as watch='DIR/checkpoint-*'"
            )
        self._series = self._series or next(iter(readable), None)
        for parent, name in readable:
            if self._series is not None and (parent, name) != self._series:
                watched = self._series[0] / self._series[1]
                self._say(f"{parent / name} is passed over; watched is {watched}")

    def _step(self, path: Path, there: list[Path]) -> int:
        """The step of a checkpoint; epochs that are counted from 0 end one later."""
        step = step_in(path.name)
        assert step is not None, "those that have none are not looked at"
        if "epoch" not in path.name:
            return step
        if self._first_epoch is None:
            self._first_epoch = self._recorded_first_epoch()
        if self._first_epoch is None:
            self._first_epoch = min(1, *(step_in(each.name) or 0 for each in there))
            if self._first_epoch == 0:
                self._say(f"{path.parent} counts epochs from 0: epoch_0 is step 1, and so on")
        return step + 1 - self._first_epoch

    def _recorded_first_epoch(self) -> int | None:
        """How the records count epochs: the first may be gone by now."""
        from analysis.records.record_files import read_record, recorded_steps

        for step in recorded_steps(self.tracker.run / "heads"):
            record = read_record(self.tracker.run, step) if step else None
            path = Path(str(record.origin["model"]["path"])) if record is not None else Path()
            for part in path.parts:
                if "epoch" in part and (epoch := step_in(part)) is not None:
                    return epoch - step + 1
        return None

    def _look_at(self, path: Path, step: int) -> None:
        """Sort a checkpoint into whole, unreadable and unfinished."""
        now, seen, signed = time.monotonic(), self._seen.get(path), signature(path)
        if seen is None or seen[0] != signed:
            seen = self._seen[path] = (signed, now)
        is_settled = now - seen[1] >= self.settle
        manifest = Manifest.read(path)
        if manifest is not None and manifest.interrupted:
            return  # it is there to resume from only
        try:
            weights = weights_in(path)
            if weights is not None:
                check_weights_there(weights)
            elif is_settled and (line := foreign(path)) is not None:
                self._unreadable[step] = line
                self._say(line)
                return
            why = "it holds no weights" if weights is None else "it changes still"
        except ValueError as error:
            weights, why = None, str(error)
            if is_settled:
                self._say(f"{path} is not whole: {why}")
        if weights is not None and (is_settled or is_declared(path, weights)):
            self._whole[step] = (path, weights, signed)
        else:
            self._unfinished[path] = why
            self._settling |= not is_settled

    def _say(self, line: str) -> None:
        """Warn, once."""
        if line not in self._said:
            self._said.add(line)
            log.warning("%s", line)

    @contextmanager
    def loaded(self, found: Found, device: str) -> Iterator[Model]:
        """The model of a checkpoint, or of the base.

        Raises:
            Gone: the checkpoint was removed, or written anew, since it was found.
            ValueError: it can't be loaded.
        """
        if found.step == 0:
            yield self.load(None, device)
            return
        path, weights, signed = self._whole[found.step]
        try:
            model = self.load(weights, device)
        except (ValueError, RuntimeError, OSError) as error:
            if _weights_changed(path, weights, signed):
                raise Gone from error
            raise
        if _weights_changed(path, weights, signed):
            raise Gone
        yield model

    def is_over(self, wait: bool) -> bool:
        """Whether the last step is there, or none is waited for, and no checkpoint is settling."""
        from analysis.records.record_files import recorded_steps

        if not wait or self._settling:
            return not self._settling
        known = {*self._whole, *self._unreadable, *recorded_steps(self.tracker.run / "heads")}
        return self.last is not None and max(known, default=0) >= self.last

    def left_out(self) -> list[str]:
        """The checkpoints that are not whole."""
        found = [f"{path} is not whole: {why}" for path, why in self._unfinished.items()]
        return [line for line in found if line not in self._said]

    @property
    def unreadable(self) -> list[int]:
        """The steps whose weights are in a form that is not read."""
        return sorted(self._unreadable)


def _has_weights(checkpoint: Path) -> bool:
    """Whether it holds safetensors, be it of several models."""
    return any(holds_weights(file) for file in files_below(checkpoint))


def _weights_changed(path: Path, weights: Path, signed: Signature) -> bool:
    """Whether the files of the weights are others than were found; more may have come beside."""
    inside = "" if weights == path else f"{weights.relative_to(path).as_posix()}/"

    def own(files: Signature) -> set[tuple[str, int, int]]:
        return {f for f in files if f[0].startswith(inside) and holds_weights(Path(f[0]))}

    return own(signature(path)) != own(signed)

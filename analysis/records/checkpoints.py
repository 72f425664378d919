"""The models of runs: what a run started from, and which model a text such as RUN@STEP names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.files import read_json
from analysis.models import hub
from analysis.models.loading import load_model, load_tokenizer
from analysis.records.run_file import is_run

if TYPE_CHECKING:
    from analysis.models.loading import Model, Tokenizer


@dataclass(frozen=True)
class Base:
    """What a run started from, as it stands in RUN/base.json.

    path: directory or hub name. dtype: of the weights in training, in which all checkpoints are
    measured. commit: of a hub model.
    """

    path: str
    dtype: str
    commit: str | None = None

    @classmethod
    def read(cls, run: Path) -> Base | None:
        """That of a run, or None if the run has not got so far.

        Raises:
            ValueError: it is damaged.
        """
        path = run / "base.json"
        return read_json(path, cls) if path.exists() else None

    @property
    def pinned(self) -> str:
        """The model as it was when the run began, wherever its branch on the hub is now."""
        return self.path if self.commit is None else hub.join(hub.split(self.path)[0], self.commit)

    def load(self, checkpoint: Path | None, device: str = "auto") -> Model:
        """The model of a checkpoint of the run, or of the base itself, as `load_model` gives it.

        Raises:
            ValueError: it can't be loaded.
        """
        return load_model(checkpoint or self.pinned, self.dtype, device, self.pinned)


@dataclass(frozen=True)
class Named:
    """What a text such as `model=` names.

    path: directory or hub name of the model, or of an adapter. run, step: the run whose checkpoint
    it is, where it is one. dtype: that of the run's training, which its checkpoints are loaded in.
    base: what the run started from, to which an adapter of it is attached. tokenizer: that of the
    run, where it is not the model's own.
    """

    path: str
    run: Path | None = None
    step: int | None = None
    dtype: str | None = None
    base: str | None = None
    tokenizer: str | None = None

    def load_tokenizer(self) -> Tokenizer:
        """Its tokenizer, with the chat template that the run asks with.

        Raises:
            ValueError: it can't be read.
        """
        return load_tokenizer(self.tokenizer or self.path, self.base)

    @property
    def label(self) -> str:
        """A short name for directories and tables: `my-run@40`, `Qwen2.5-Math-1.5B`."""
        if self.run is not None:
            return f"{self.run.resolve().name}@{self.step}"
        place = Path(self.path).expanduser()
        if place.is_dir():
            return place.resolve().name
        name, revision = hub.split(self.path)
        return hub.join(Path(name).name, revision and revision.replace("/", "-"))


def own_tokenizer(run: Path) -> str | None:
    """RUN/tokenizer, which a training writes if it has another template or end than its model."""
    directory = run / "tokenizer"
    return str(directory) if directory.is_dir() else None


def find_model(text: str) -> Named:
    """The model of a directory, a hub name (NAME or NAME@REVISION), or RUN@STEP.

    Step 0 is what the run started from.

    A directory RUN/checkpoint-STEP counts as that step of its run, like RUN@STEP. A run is known by
    its run.json or, where an older one has none, its base.json; beside neither, a checkpoint is a
    model of its own.

    Raises:
        ValueError: there is no such directory, run or checkpoint.
    """
    place, at, step = text.rpartition("@")
    if at and Path(place).expanduser().is_dir():
        return _of_run(Path(place).expanduser(), step)
    path = Path(text).expanduser()
    if not path.is_dir():
        if text.startswith(("/", ".", "~")):
            raise ValueError(f"there is no directory {text}")
        return Named(text)
    found = re.fullmatch(r"checkpoint-(\d+)", path.name)
    if found and (is_run(path.parent) or (path.parent / "base.json").is_file()):
        return _of_run(path.parent, found[1])
    if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        inside = sorted(file.parent.name for file in path.glob("*/adapter_config.json"))
        if inside and not inside[0].startswith("checkpoint-"):
            raise ValueError(f"{text} holds adapters in directories; name one: {text}/{inside[0]}")
        raise ValueError(
            f"{text} holds no model (no config.json and no adapter_config.json); for a run, write "
            f"{text}@STEP or {text}@last"
        )
    return Named(str(path))


def _of_run(run: Path, step: str) -> Named:
    from analysis.records.record_files import read_record

    there = {
        int(found[1]): path
        for path in run.glob("checkpoint-*")
        if (found := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    if step != "last" and not step.isdecimal():
        raise ValueError(f"{run}@{step}: the step must be a number or last")
    if step == "last" and not there:
        raise ValueError(f"{run} has no checkpoint left; name a step that was tracked, or a model")
    number = max(there) if step == "last" else int(step)
    base = Base.read(run)
    of_run = (base.dtype, base.pinned) if base is not None else (None, None)
    if number in there:
        return Named(str(there[number]), run, number, *of_run)
    if number == 0 and base is not None:
        return Named(base.pinned, run, 0, base.dtype, base.pinned, own_tokenizer(run))
    record = read_record(run, number)
    origin = record.origin.get("model", {}) if record else {}
    recorded, commit = str(origin.get("path") or ""), origin.get("commit")
    # of what is trained, and of an adapter after its first step, the record names the base, which
    # is another model
    is_whole = base is None and (number == 0 or origin.get("adapter") is None)
    if is_whole and recorded and (Path(recorded).is_dir() or not recorded.startswith("/")):
        return Named(Base(recorded, "", commit).pinned, run, number)
    known = ", ".join(map(str, sorted(there))) or "none"
    raise ValueError(f"{run} has no checkpoint of step {number}; it has: {known}")

"""A second model that a training is measured against, such as its teacher, on the same pairs.

It is measured once, into RUN/reference (analysis/trajectories/reference.py).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from analysis.models.anatomy import base_model
from analysis.models.loading import load_model, load_tokenizer_if_any
from analysis.models.preserve import preserved
from analysis.prompts.pairs import Pairs
from analysis.records.record import Record
from analysis.records.record_files import read_record
from analysis.records.run_file import RunFile
from analysis.tracking import distributed
from analysis.tracking.tracker import HeadTracker, graph_of_heads
from analysis.trajectories.reference import DIRECTORY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

    from analysis.models.loading import Model


log = logging.getLogger(__name__)


def teacher_of(args: TrainingArguments, trainer: Trainer | None) -> Model | str | None:
    """The teacher that a trainer or its arguments name, as TRL's do; None if they name none."""
    of_trainer = getattr(trainer, "teacher_model", None)
    if isinstance(of_trainer, nn.Module):
        return cast("Model", of_trainer)
    return getattr(args, "teacher_model_name_or_path", None)


def reference_of(
    given: Model | str | Path | None,
    args: TrainingArguments,
    trainer: Trainer | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> ReferenceModel | None:
    """What a training is measured against: what is asked for, or its teacher.

    Raises:
        ValueError: what is asked for is refused (see `ReferenceModel`); of a teacher that is said.
    """
    if given is not None:
        return ReferenceModel(given, tokenizer)
    teacher = teacher_of(args, trainer)
    try:
        return None if teacher is None else ReferenceModel(teacher, tokenizer)
    except ValueError as error:  # nobody has asked for it
        if distributed.rank() == 0:
            log.warning("the teacher is no reference: %s", error)
        return None


class ReferenceModel:
    """What a run is compared with. It is there only while a run is opened.

    model: the model, or where its files are, which are then read in float32.
    """

    def __init__(
        self, model: Model | str | Path, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        """
        Raises:
            ValueError: it can't be loaded or tracked, or it has other tokens than the run.
        """
        place = str(model if not isinstance(model, nn.Module) else _source(model))
        self.model = model if isinstance(model, nn.Module) else load_model(place, "float32")
        self.name = Path(place).name or type(self.model).__name__
        graph_of_heads(self.model)
        is_there = not isinstance(model, nn.Module) or Path(place).is_dir()
        own = load_tokenizer_if_any(place) if place and is_there else None
        if own is None or tokenizer is None:
            return
        ours, theirs = tokenizer.get_vocab(), own.get_vocab()
        if ours != theirs:
            odd = min(ours.items() ^ theirs.items(), key=lambda item: (item[1], item[0]))
            raise ValueError(
                f"reference: {self.name} has another tokenizer than the model that is trained "
                f"({len(theirs)} and {len(ours)} tokens; token {odd[1]} is {odd[0]!r} in one of "
                "them only), so the pairs would be other texts to it; give a model of one tokenizer"
            )

    def measure(self, tracker: HeadTracker) -> None:
        """Write its record beside those of a run, unless it stands there; called by all ranks."""
        directory = tracker.run / DIRECTORY
        # its heads are not tested against a base's, so without further pairs
        ours = HeadTracker(directory, Pairs(tracker.pairs), tracker.settings, None)
        if distributed.main_decides(lambda: self._is_done(directory, ours)):
            return
        if distributed.rank() == 0:
            for name in ("pairs.jsonl", "pairs.json"):  # of other pairs
                (directory / name).unlink(missing_ok=True)
            directory.mkdir(parents=True, exist_ok=True)
            RunFile(self.name, DIRECTORY, tracking=None).write(directory)
        with preserved(self.model):
            ours.track(self.model, 0, show_progress=False)

    def _is_done(self, directory: Path, ours: HeadTracker) -> bool:
        from analysis.models.provenance import weight_hashes

        def same(record: Record) -> bool:
            its = record.origin.get("model") or {}
            measured = record.settings == ours.settings.of_record()
            is_it = weight_hashes(self.model).items() <= its.items()
            return measured and is_it and record.pairs_hash == ours.pairs.hash

        try:
            found = read_record(directory, 0)
        except ValueError:  # a damaged one is made again
            return False
        return found is not None and same(found)


def _source(model: nn.Module) -> str:
    return str(getattr(base_model(model).config, "name_or_path", "") or "")

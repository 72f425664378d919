"""What head tracking takes from a trainer that is not headlab's, and what that must be like."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.models import hub
from analysis.models.anatomy import anatomy, base_model
from analysis.records.checkpoints import Base
from analysis.records.run_file import RunFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments

    from analysis.models.loading import Model
    from analysis.tracking.settings import TrackingConfig

ENTERING = ("heads/", "circuit/")  # of the values of a checkpoint, those for the trainer's logs


def base_of(model: Model) -> Base | None:
    """What a live model was read from; None for one that was not read from anywhere."""
    inner = base_model(model)
    config = inner.config
    name, commit = str(getattr(config, "name_or_path", "")), getattr(config, "_commit_hash", None)
    if not name:
        return None
    dtype = str(next(inner.parameters()).dtype).removeprefix("torch.")
    place = Path(name).expanduser()
    if place.is_dir():
        return Base(str(place.resolve()), dtype)
    return Base(name, dtype, commit) if hub.is_hub_name(name) else None


def run_file(
    name: str, args: TrainingArguments, tracking: TrackingConfig, trainer: object | None
) -> RunFile:
    """What is said of the run; its kind is the trainer's, as its class or its arguments name it."""
    kind = type(args).__name__ if trainer is None else type(trainer).__name__
    kind = kind.removesuffix("Config").removesuffix("Trainer").removesuffix("TrainingArguments")
    return RunFile(
        name=name,
        kind=kind.lower() or "trainer",
        signal="loss",
        tracking=asdict(tracking.settings()),
        fdr=tracking.fdr,
        hysteresis=tracking.hysteresis,
        seed=args.seed,
    )


def check(args: TrainingArguments, model: Model, tracking: TrackingConfig) -> None:
    """Raise ValueError if the model can't be tracked, or not as it is asked for."""
    inner = base_model(model)
    if not hasattr(inner, "lm_head"):
        raise ValueError(
            f"{type(inner).__name__} has no LM head (a reward model or a classifier has a head "
            "of its own instead), so there are no next tokens whose circuit could be found; "
            "track a model that generates"
        )
    anatomy(model, tracking.kv)
    if tracking.where == "inline":
        return
    where = f"where={tracking.where!r}"
    if base_of(model) is None:
        raise ValueError(
            f"{where} reads the base model from its files, and this model was not loaded from "
            "any; save it and load it from there, or give where='inline'"
        )
    if chooses_by_heads(args):
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} is needed before a step is "
            f"saved, and {where} measures it afterwards; give where='inline'"
        )


def chooses_by_heads(args: TrainingArguments) -> bool:
    """Whether the trainer's best model is the best by its heads."""
    return (args.metric_for_best_model or "").removeprefix("eval_").startswith(ENTERING)


def tokenizer_of(processing_class: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a trainer, which may have a processor of several kinds of input."""
    from transformers import PreTrainedTokenizerBase

    for found in (processing_class, getattr(processing_class, "tokenizer", None)):
        if isinstance(found, PreTrainedTokenizerBase):
            return found
    return None

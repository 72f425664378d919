"""What head tracking takes from a trainer that is not headlab's, and what that must be like."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open

from analysis.live.auto_pairs import SIZE, auto_pairs, rows_of
from analysis.models import hub
from analysis.models.anatomy import base_model
from analysis.models.loading import load_tokenizer_if_any
from analysis.models.weights import stored_tensors
from analysis.prompts.pairs import Pairs
from analysis.records.checkpoints import Base
from analysis.records.run_file import RunFile
from analysis.tracking import distributed
from analysis.tracking.further import pairs_of_file
from analysis.tracking.tracker import graph_of_heads

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

    from analysis.models.loading import Model
    from analysis.tracking.settings import TrackingConfig

log = logging.getLogger(__name__)

AUTO = "auto"  # pairs made of the trainer's rows
_ENDS = ("/lo", "/hi", "/null", "/null_hi", "/seconds")


def enters(name: str) -> bool:
    """Whether a value of a checkpoint's row enters the trainer's logs: no head's, no interval's.

    >>> [name for name in ("heads/emergent", "heads/emergent/lo", "head/L00H01") if enters(name)]
    ['heads/emergent']
    """
    ours = name.startswith(("heads/", "circuit/")) or name == "routing/changed"
    return ours and not name.endswith(_ENDS)


def base_of(model: Model) -> Base | None:
    """What a live model says that it was read from; None for one that says nothing."""
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


def given_pairs(
    given: str | Path | Pairs,
    run: Path | None,
    tokenizer: PreTrainedTokenizerBase | None,
    metric: str,
    trainer: Trainer | None,
    loader: Any,
    times: int = 1,
) -> Pairs:
    """The pairs, of their file or made of the trainer's rows; called by all ranks.

    times: as many pairs are made, those beyond auto_pairs.SIZE as further ones for the base; of a
    file they are those in the file beside it.

    run: of a training that is resumed, which keeps the pairs that were made.

    Raises:
        ValueError: the file can't be read, or the rows make no pairs.
    """
    if isinstance(given, Pairs):
        return given
    if str(given) != AUTO:
        return pairs_of_file(Path(given).expanduser(), tokenizer, metric, times)
    if run is not None and (run / "pairs.jsonl").exists():
        return Pairs.load(run / "pairs.jsonl")

    def make() -> Pairs | None:
        if distributed.rank() != 0:
            return None
        rows, whose = rows_of(trainer, loader)
        pairs = auto_pairs(rows, tokenizer, times * SIZE).split(SIZE)
        pairs.about = f"{pairs.about}, made of rows {whose}"
        log.info("heads are tracked on %d pairs: %s", len(pairs), pairs.about)
        return pairs

    made = distributed.together(make)
    return cast("Pairs", distributed.from_main(lambda: made))


def base_at(step: int, model: Model) -> Base | None:
    """`base_of` a training that begins at a step; None, which is said, if its files hold another.

    Of a model that was made of a configuration, or changed after it was read.
    """
    base = base_of(model)
    if base is None or step > 0 or is_as_in_files(model, base):
        return base
    if distributed.rank() == 0:
        log.warning(
            "the model is not that of the files in %s, so step 0 can't be loaded again later; its "
            "heads are measured as they are",
            base.path,
        )
    return None


def is_as_in_files(model: Model, base: Base) -> bool:
    """Whether a model has the weights that its files hold: of a few tensors.

    True where they can't be looked at.
    """
    try:
        stored = stored_tensors(_files_of(base))
    except ValueError:
        return True
    live = dict(base_model(model).named_parameters())
    same = [name for name in stored if name in live and stored[name].shape == live[name].shape]
    for name in sorted(same, key=lambda name: (live[name].ndim != 2, live[name].numel()))[:3]:
        with safe_open(stored[name].file, framework="pt") as content:
            there = content.get_tensor(name)
        if not torch.equal(there.to(live[name].dtype), live[name].detach().cpu()):
            return False
    return True


def _files_of(base: Base) -> Path:
    """Where a base's weights lie on this machine; nothing is fetched.

    Raises:
        ValueError: not here.
    """
    from huggingface_hub import try_to_load_from_cache

    if not hub.is_hub_name(base.path):
        return Path(base.path)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        found = try_to_load_from_cache(hub.split(base.path)[0], name, revision=base.commit)
        if isinstance(found, str):
            return Path(found).parent
    raise ValueError(f"{base.path} is not in the cache")


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


def check(
    args: TrainingArguments, model: Model, base: Base | None, tracking: TrackingConfig
) -> None:
    """Raise ValueError if the model can't be tracked, or not as it is asked for."""
    inner = base_model(model)
    if inner.get_output_embeddings() is None:
        raise ValueError(
            f"{type(inner).__name__} has no LM head (a reward model or a classifier has a head "
            "of its own instead), so there are no next tokens whose circuit could be found; "
            "track a model that generates"
        )
    graph_of_heads(model, tracking.kv)
    if tracking.where == "inline":
        return
    where = f"where={tracking.where!r}"
    if base is None:
        raise ValueError(
            f"{where} reads the base model from its files, and this model is not as in any; save "
            "it and load it from there, or give where='inline'"
        )
    if chooses_by_heads(args):
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} is needed before a step is "
            f"saved, and {where} measures it afterwards; give where='inline'"
        )


def chooses_by_heads(args: TrainingArguments) -> bool:
    """Whether the trainer's best model is the best by its heads."""
    return enters((args.metric_for_best_model or "").removeprefix("eval_"))


def tokenizer_of(processing_class: Any, model: Model) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a trainer, or of its processor; without one, that of its model's files."""
    from transformers import PreTrainedTokenizerBase

    if processing_class is None:
        base = base_of(model)
        return None if base is None else load_tokenizer_if_any(base.pinned)
    for found in (processing_class, getattr(processing_class, "tokenizer", None)):
        if isinstance(found, PreTrainedTokenizerBase):
            return found
    return None

"""Whole weights to read, of a model that a trainer has divided over the ranks.

A callback that wants to look at the model must not call DeepSpeed's engine: under ZeRO-2 that
fails, under ZeRO-3 it silently changes the training. `whole_weights` gives the plain model instead.
Under ZeRO-3 it gathers all parameters on every rank and takes the engine's hooks off meanwhile, as
TRL does for generation; with it, training is bit-identical to a run nobody looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from analysis.live.compat import without_engine_hooks

if TYPE_CHECKING:
    from transformers import Trainer


def is_partitioned(trainer: Trainer) -> bool:
    """Whether every rank holds only a part of each weight (ZeRO-3)."""
    stage = getattr(trainer.model_wrapped, "zero_optimization_stage", None)
    return stage is not None and stage() == 3


@contextmanager
def whole_weights(trainer: Trainer) -> Iterator[None]:
    """Whole weights in the trainer's model, to read; to be entered by all ranks."""
    if not is_partitioned(trainer):
        yield
        return
    import deepspeed

    engine = trainer.model_wrapped
    with deepspeed.zero.GatheredParameters(list(engine.parameters())), without_engine_hooks(engine):
        yield

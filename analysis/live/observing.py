"""Look at the model of a training at step 0 and at each save, and leave it exactly as it was.

What is looked at is the plain model, with whole weights under every way of sharding, run by Python
and not as it was compiled: hooks on the modules of a compiled model are passed over without a word.
All ranks come to each observation and leave it together, so that none runs ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import TrainerCallback

from analysis.live.whole_weights import whole_model
from analysis.models.hooks import not_compiled
from analysis.tracking import distributed

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from analysis.models.loading import Model


class Observer(TrainerCallback):
    """Calls `observe(step, model, tokenizer)` on all ranks at step 0 and at each save.

    A resumed run observes the checkpoint it starts from as well, if `is_done` says that its result
    is missing, because the run may have been stopped between saving and observing. What a stop by
    SIGTERM leaves out is made up in that way.

    start: the step that the training starts from, where a record of it is wanted; else None.
    stopping: whether the training stops at this step, with a checkpoint that is not looked at.
    trainer: whose weights may be divided over the ranks.
    """

    def __init__(
        self,
        start: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
        trainer: Trainer | None = None,
    ) -> None:
        self.start = start
        self.stopping = stopping
        self.looked: int | None = None  # the step that was observed last
        self.trainer = trainer

    def is_done(self, step: int) -> bool:
        raise NotImplementedError

    def is_wanted(self, step: int, last: int) -> bool:
        """Whether the checkpoint of a step is observed."""
        return True

    def is_regular(self, step: int) -> bool:
        """Whether the step that a run starts from is one that an unbroken run would observe."""
        return step == self.start

    def observe(
        self, step: int, model: Model | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        raise NotImplementedError

    def look(
        self,
        state: TrainerState,
        model: Model | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """Observe the live model, with its weights whole."""
        assert model is not None, "a trainer hands over its model"
        self.looked = state.global_step
        with seen_whole(model, self.trainer) as plain:
            self.observe(state.global_step, plain, tokenizer)
        distributed.wait_for_all()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        step = state.global_step
        wanted = self.is_regular(step) and self.is_wanted(step, state.max_steps)
        if wanted and not distributed.main_decides(lambda: self.is_done(step)):
            self.look(state, model, processing_class)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if self.looked == state.global_step:  # at the end of the step, before it was saved
            return
        wanted = self.is_wanted(state.global_step, state.max_steps)
        if wanted and not self.stopping():
            self.look(state, model, processing_class)


@contextmanager
def seen_whole(model: nn.Module, trainer: Trainer | None) -> Iterator[Any]:
    """The plain model, whole and not compiled, to look at; to be entered by all ranks.

    Raises:
        ValueError: it is divided in a way that leaves no whole layer anywhere, or by ZeRO-3 and no
            trainer is there that could gather it.
    """
    with not_compiled(), whole_model(model, trainer) as plain:
        yield plain

"""What `train` and `launch` use of transformers, TRL and DeepSpeed without a promise of theirs.

Any release may change it, so pyproject.toml keeps each of them below the next minor version that
was not tested. Checked in transformers 5.23.0, TRL 1.16.0 and DeepSpeed 0.19.8.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from torch.utils.data import Sampler
    from transformers import Trainer
    from trl import GRPOTrainer


@contextmanager
def without_hub() -> Iterator[None]:
    """Inside, no library asks the hub: all that a training needs of it is in its cache by then.

    TRL reports its use, transformers and PEFT look up the model at each save; where the hub is
    away, each waits for it. PEFT reads the variable. Checked in huggingface_hub 2.4.0, PEFT 0.21.2.
    """
    from huggingface_hub import constants

    before, said = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        os.environ.pop("HF_HUB_OFFLINE")
        if said is not None:
            os.environ["HF_HUB_OFFLINE"] = said


def without_shm_operator() -> None:
    """Keep DeepSpeed from compiling its operator for communication through shared memory.

    On a CPU it would before it starts. Checked in DeepSpeed 0.19.8.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def forget_world() -> None:
    """Let accelerate and transformers find out anew what processes and DeepSpeed there are.

    Else a model that is loaded would still be split over the ranks after a run under ZeRO-3.
    Checked in accelerate 1.15.0 and transformers 5.23.0.
    """
    from accelerate.state import AcceleratorState
    from transformers.integrations import deepspeed as integration

    integration.unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)


def with_orders_of_passed_epochs(trainer: GRPOTrainer) -> None:
    """Resumed in a later epoch, GRPO takes that epoch's order of the prompts.

    TRL's sampler draws an order each time that it is gone through, and at a resume it is new: the
    order of the first epoch would come again. Checked in TRL 1.16.0 and transformers 5.23.0.
    """
    make, begin = trainer._get_train_sampler, trainer._init_training_state
    made: list[Sampler[int]] = []

    def sampler(dataset: Dataset | None = None) -> Sampler[int]:
        made.append(make(dataset))
        return made[-1]

    def state(*arguments: Any, **named: Any) -> tuple[int, int]:
        epochs, steps = begin(*arguments, **named)
        for _ in range(epochs):
            next(iter(made[-1]), None)
        return epochs, steps

    trainer._get_train_sampler = sampler  # type: ignore[method-assign]
    trainer._init_training_state = state  # type: ignore[method-assign]


def token_count(trainer: Trainer) -> int | None:
    """How many tokens TRL's SFTTrainer has seen, logged as `num_tokens`; None of other trainers.

    Checked in TRL 1.16.0.
    """
    found = getattr(trainer, "_total_train_tokens", None)
    return None if found is None else int(found)


def set_token_count(trainer: Trainer, tokens: int) -> None:
    """Let the count go on from `tokens`; no state of TRL's keeps it. Checked in TRL 1.16.0."""
    trainer._total_train_tokens = tokens  # type: ignore[attr-defined]


def vllm_for_trl() -> bool:
    """Whether TRL finds vLLM; it warns of a version that it does not support.

    Checked in TRL 1.16.0.
    """
    from trl.import_utils import is_vllm_available

    return bool(is_vllm_available())


def classes_in_states(deepspeed: bool) -> list[Any]:
    """The classes, beside torch's, of the objects in the states that a training reads at a resume.

    numpy's are in the states of random numbers, DeepSpeed's in those of its engine. Checked in
    transformers 5.23.0 and DeepSpeed 0.19.8.
    """
    import numpy as np

    found: list[Any] = [np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    found.append(np.empty(0).__reduce__()[0])  # the function that makes an array
    if deepspeed:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        found += [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    return found

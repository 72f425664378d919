"""What is used of trainers and engines without a promise of theirs, to look at a live model.

Any release may change it: see the bounds in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@contextmanager
def without_engine_hooks(engine: DeepSpeedEngine) -> Iterator[None]:
    """A ZeRO-3 engine's model without the hooks that gather and release weights at each pass.

    TRL takes them off for generation, and leaves one that would make ranks wait for each other in
    forward passes. Checked in TRL 1.16.0 and DeepSpeed 0.19.8.
    """
    from trl.models.utils import add_hooks, remove_hooks

    offload = engine.optimizer.parameter_offload
    remove_hooks(engine)
    before_forward = offload.fwd_pre_hook.id
    synchronize = offload.module._forward_pre_hooks.pop(before_forward)
    try:
        yield
    finally:
        offload.module._forward_pre_hooks[before_forward] = synchronize
        add_hooks(engine)


@contextmanager
def unsharded_loading() -> Iterator[None]:
    """Models loaded inside are whole; under ZeRO-3 transformers would split them over the ranks.

    It does where it has been given a configuration of DeepSpeed. Checked in transformers 5.23.0.
    """
    from transformers.integrations import deepspeed as integration

    hidden = integration._hf_deepspeed_config_weak_ref
    integration._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = hidden

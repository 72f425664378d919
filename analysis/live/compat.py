"""What is used of trainers and engines without a promise of theirs, to look at a live model.

Any release may change it: see the bounds in pyproject.toml.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

_ON_ONE_RANK = "FSDP_CPU_RAM_EFFICIENT_LOADING"

_FORWARD_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_HOOKS_ARE = (
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks_with_kwargs",
)
_OF_ONE_INSTANCE = ("_compiled_call_impl", "_is_fsdp_managed_module")


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
    """Models loaded inside are whole on every rank.

    Under ZeRO-3 transformers would split them over the ranks, where it has been given a
    configuration of DeepSpeed; under FSDP with `cpu_ram_efficient_loading` it would read them on
    rank 0 only. Checked in transformers 5.23.0.
    """
    from transformers.integrations import deepspeed as integration

    hidden = integration._hf_deepspeed_config_weak_ref
    integration._hf_deepspeed_config_weak_ref = None
    on_one_rank = os.environ.pop(_ON_ONE_RANK, None)
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = hidden
        if on_one_rank is not None:
            os.environ[_ON_ONE_RANK] = on_one_rank


def registered(module: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parameters, buffers and modules that a module itself holds, those that are None included.

    Checked in torch 2.13.
    """
    return module._parameters, module._buffers, module._modules


def attributes(module: Any) -> dict[str, Any]:
    """What an instance of a module holds beside what torch and its sharding keep in it.

    Left out are wrappers that stand in the place of the class's methods, too (`generate` of FSDP,
    `forward` of accelerate), since they call the module they were made of. Checked in torch 2.13
    and accelerate 1.15.
    """
    of_torch = {*vars(torch.nn.Module()), *_OF_ONE_INSTANCE}
    return {
        name: value
        for name, value in vars(module).items()
        if name not in of_torch
        and not (hasattr(value, "__wrapped__") and hasattr(type(module), name))
    }


def take_hooks(new: Any, module: Any) -> None:
    """Give a new module the forward hooks of another, without those of torch's sharding.

    And the names of its buffers that no checkpoint holds. Checked in torch 2.13.
    """
    new._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    for kind in _HOOKS_ARE:
        setattr(new, kind, getattr(module, kind).copy())
    for kind in _FORWARD_HOOKS:
        hooks = getattr(module, kind).copy()
        for key, hook in list(hooks.items()):
            if str(getattr(hook, "__module__", "")).startswith("torch.distributed"):
                del hooks[key]
        setattr(new, kind, hooks)

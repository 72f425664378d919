"""Everything of transformers and torch that `analysis` uses and no documentation promises.

Any release may change it, so pyproject.toml keeps transformers below the next minor version that
was not tested. What is of transformers was checked in 5.23.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_utils import AttentionInterface
from transformers.pytorch_utils import Conv1D as Conv1D  # GPT-2's linear layers, weight transposed

# what a wrapper calls the module that it is around: torch.compile, activation checkpointing, FSDP1
_INSIDE = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def inside(module: Any) -> Any:
    """What a wrapper around a module holds (DDP, FSDP1, torch.compile, activation checkpointing).

    None for a module that is no wrapper. Checked in torch 2.13.
    """
    if isinstance(module, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
        return module.module
    held = getattr(module, "_modules", {})
    return next((held[name] for name in _INSIDE if name in held), None)


def unwrapped(model: Any) -> Any:
    """The model inside DDP, DataParallel and torch.compile; any other as it is."""
    while (inner := inside(model)) is not None:
        model = inner
    return model


def attention_kind(config: Any) -> str | None:
    """The implementation of attention that a model of this configuration uses: eager, sdpa, ...

    `model.set_attn_implementation` would do for whole models; a mixture of implementations, as
    vision towers have, could not be restored with it. Checked in transformers 5.23.0.
    """
    kind: str | None = config._attn_implementation
    return kind


def set_attention_kind(config: Any, kind: str | None) -> None:
    """Make the modules that hold this very configuration use an implementation from now on.

    They look it up in every forward pass. Checked in transformers 5.23.0.
    """
    config._attn_implementation = kind


@contextmanager
def groups_of_one(attention: Any) -> Iterator[None]:
    """Inside, attention does not repeat keys and values: they come with one for each query head.

    Checked in transformers 5.23.0.
    """
    size = getattr(attention, "num_key_value_groups", None)
    if size is None:
        yield
        return
    attention.num_key_value_groups = 1
    try:
        yield
    finally:
        attention.num_key_value_groups = size


def model_of(kind: Any, config: Any, dtype: Any) -> Any:
    """A model of a class with weights as they are at first, without a global change of dtype.

    `AutoModelForCausalLM.from_config` would choose the class itself. Checked in transformers
    5.23.0.
    """
    return kind._from_config(config, dtype=dtype)


def set_commit(part: Any, commit: str | None) -> None:
    """Say which commit of the hub a model, a configuration or a tokenizer is of.

    Checked in transformers 5.23.0.
    """
    part._commit_hash = commit


@contextmanager
def attention_calls(see: Callable[..., Any]) -> Iterator[None]:
    """Inside, attention that goes through the interface calls see(module, q, k, v, call) instead.

    q [B, H, T, e], k and v [B, K, T, e]; what `call(q, k, v)` gives, first [B, T, H, e], is what
    would have been. Checked in transformers 5.23.0.
    """
    interface: Any = AttentionInterface
    plain = interface.get_interface

    def get_interface(self: Any, kind: Any, default: Any) -> Any:
        compute = plain(self, kind, default)

        def run(module: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
            return see(module, q, k, v, lambda q, k, v: compute(module, q, k, v, *args, **kwargs))

        return run

    interface.get_interface = get_interface
    try:
        yield
    finally:
        interface.get_interface = plain


def own_tensors(module: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A module's own parameters and buffers by name: to change these changes the module.

    `setattr` would refuse a parameter of another type, or drop the hooks of the old one. Checked in
    torch 2.13.0.
    """
    return module._parameters, module._buffers


def changes_in_place(tensor: Any) -> int:
    """How often a tensor has been changed in place, but for changes through `.data`.

    Checked in torch 2.13.0.
    """
    count: int = tensor._version
    return count


def hooks_on(module: Any) -> tuple[int, ...]:
    """The numbers of the hooks on a module's forward. Checked in torch 2.13.0."""
    return *module._forward_hooks, *module._forward_pre_hooks


def storage_id(storage: Any) -> int:
    """A number that two tensors share if their storage is one, on the meta device too.

    There no storage has an address. Checked in torch 2.13.
    """
    found: int = storage._cdata
    return found

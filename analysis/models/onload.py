"""Weights that are not where they compute: those that accelerate has put on the CPU or the disk.

Such a module's parameters are on the meta device, without values, and a hook of accelerate brings
them for each forward pass. Whoever reads a weight has it brought in the same way. accelerate is
not needed for that: its hooks are on the modules.

A backward pass keeps what it needs of the weights that the forward pass brought, so that an
attribution of an offloaded model holds its layers' weights at once where they are computed with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@contextmanager
def onloaded(module: nn.Module) -> Iterator[None]:
    """Inside, the weights of a module and of those in it can be read."""
    brought = [(part, hook) for part in module.modules() for hook in _bringing(part)]
    try:
        for part, hook in brought:
            hook.pre_forward(part)
        yield
    finally:
        for part, hook in brought:
            hook.post_forward(part, None)


@dataclass(frozen=True)
class Weight:
    """A parameter by the module that holds it, which is another object after each pass."""

    module: nn.Module
    name: str

    @contextmanager
    def read(self) -> Iterator[torch.Tensor]:
        """Inside, its values."""
        with onloaded(self.module):
            yield getattr(self.module, self.name)


def weights_of(model: nn.Module) -> Iterator[tuple[str, Weight]]:
    """The parameters of a model by name, each once; one that is tied by its first name."""
    offloaded = any(parameter.is_meta for parameter in model.parameters())
    tied = _tied(model) if offloaded else ()  # which is two objects there
    for name, _ in model.named_parameters():
        if not name.endswith(tied):
            above, _, last = name.rpartition(".")
            yield name, Weight(model.get_submodule(above), last)


def _tied(model: nn.Module) -> tuple[str, ...]:
    """The names, in their own modules, of parameters that are others' too."""
    found = (getattr(part, "all_tied_weights_keys", None) for part in model.modules())
    return tuple(name for names in found for name in names or ())


def packed(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors in a tensor: itself, or what one of a class of its own is made of.

    And the scales that bitsandbytes keeps beside its numbers. Checked in torch 2.13.
    """
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from packed(getattr(tensor, name))
    else:
        yield tensor.detach()
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)
    if scales is not None:
        yield scales


def home(module: nn.Module) -> torch.device:
    """The device that a module computes on."""
    for part in module.modules():
        for hook in _hooks(part):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
    return next(module.parameters()).device


def check_there(model: nn.Module) -> None:
    """That a model's weights have values, and its layers compute on one device.

    Raises:
        ValueError: naming a weight without, or the devices.
    """
    for name, part in model.named_modules():
        away = [n for n, weight in part.named_parameters(recurse=False) if weight.is_meta]
        if away and not _bringing(part):
            raise ValueError(
                f"the weight {f'{name}.{away[0]}'.lstrip('.')} is on the meta device, where it has "
                "no values; load the model's weights (from_pretrained)"
            )
    devices = sorted({str(home(part)) for part in model.modules() if _is_leaf(part)})
    if len(devices) > 1:
        raise ValueError(
            f"the model's layers compute on several devices ({', '.join(devices)}), and heads are "
            "measured on one; load it on one (device_map={'': 0}), or offload what does not fit "
            "there to the CPU or the disk (device_map='auto' with max_memory for one GPU)"
        )


def _is_leaf(part: nn.Module) -> bool:
    return next(part.parameters(recurse=False), None) is not None


def _hooks(part: nn.Module) -> tuple[Any, ...]:
    """The hooks that accelerate has put on a module itself."""
    hook = vars(part).get("_hf_hook")
    return () if hook is None else tuple(getattr(hook, "hooks", (hook,)))


def _bringing(part: nn.Module) -> list[Any]:
    """Those that bring its weights, where they are not there already."""
    if not any(weight.is_meta for weight in part.parameters(recurse=False)):
        return []
    return [hook for hook in _hooks(part) if getattr(hook, "offload", False)]

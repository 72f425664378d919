"""The tree of a model's modules again, plain: without the wrappers and hooks of sharding.

Attribution puts hooks on modules and runs them part by part, forward and backward. What FSDP does
before and after each module's pass must not see that: it would gather and free weights, and wait
for other ranks, in the midst of it. So a model that FSDP has divided is copied, module by module,
around whole weights; adapters, tied weights and buffers stay what they are, and the model itself is
not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from analysis.live.compat import attributes, registered, take_hooks
from analysis.models.compat import unwrapped


@torch.no_grad()
def plain_copy(model: nn.Module, whole: Callable[[nn.Parameter], torch.Tensor]) -> Any:
    """The modules of a model again, with what `whole` gives for each of its parameters.

    `whole` is called in the same order on all ranks, once for a parameter that is tied. Buffers and
    whatever else the modules hold are shared with the model. Hooks that a user has put on a module
    are on the copy, too.
    """
    return _Copy(whole).of(model)


class _Copy:
    """Copies modules; two that hold the same module or parameter do so again."""

    def __init__(self, whole: Callable[[nn.Parameter], torch.Tensor]) -> None:
        self._whole = whole
        self._modules: dict[nn.Module, nn.Module] = {}
        self._parameters: dict[nn.Parameter, nn.Parameter] = {}

    def of(self, module: nn.Module) -> nn.Module:
        module = unwrapped(module)
        if module in self._modules:
            return self._modules[module]
        kind = _plain_class(module)
        new = self._modules[module] = kind.__new__(kind)
        nn.Module.__init__(new)
        new.training = module.training
        take_hooks(new, module)
        for there, found in zip(registered(new), registered(module), strict=True):
            there.update({name: self._again(value) for name, value in found.items()})
        vars(new).update({name: self._again(value) for name, value in attributes(module).items()})
        return new

    def _again(self, value: Any) -> Any:
        """A module, a parameter, or what holds some, of the copy; anything else as it is."""
        if isinstance(value, nn.Module):
            return self.of(value)
        if isinstance(value, nn.Parameter):
            if value not in self._parameters:
                new = nn.Parameter(self._whole(value).detach(), value.requires_grad)
                self._parameters[value] = new
            return self._parameters[value]
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self.of(value.__self__))
        if type(value) in (list, tuple):
            return type(value)(map(self._again, value))
        if type(value) is dict:
            return {key: self._again(entry) for key, entry in value.items()}
        return value


def _plain_class(module: nn.Module) -> type[nn.Module]:
    """A module's class, without FSDP2's in front of it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return type(module)
    from torch.distributed.fsdp import FSDPModule

    return next(
        kind
        for kind in type(module).__mro__
        if issubclass(kind, nn.Module) and not issubclass(kind, FSDPModule)
    )

"""What a linear module computes, as a matrix and a bias, and the floats that sums are made in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from analysis.models.compat import Conv1D
from analysis.models.onload import home, onloaded

_DENSE = (torch.Tensor, nn.Parameter)  # other classes of tensors hold packed numbers
_WIDE = torch.float32


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """float32, or float64 where the tensor is float64 already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@torch.no_grad()
def linear_map(module: Any) -> torch.Tensor:
    """The matrix [out, in] that a linear module applies, its adapters included, without its bias.

    A plain `nn.Linear` or `Conv1D` gives its weight; anything else (a LoRA layer, or one with
    quantised weights) is applied to the identity, which is exact for a linear module in eval mode.
    """
    with onloaded(module):
        if _is_plain(module):
            return module.weight.T if type(module) is Conv1D else module.weight
        identity = torch.eye(module.in_features, dtype=_reads(module), device=home(module))
        # forward, not __call__: the hooks of a running attribution must not see this
        return (module.forward(identity) - module.forward(torch.zeros_like(identity[:1]))).T


@torch.no_grad()
def linear_bias(module: Any) -> torch.Tensor | None:
    """What a linear module returns for 0, [out], or None if it has no bias."""
    with onloaded(module):
        if _is_plain(module):
            return None if module.bias is None else module.bias.detach()
        zero = torch.zeros(1, module.in_features, dtype=_reads(module), device=home(module))
        return module.forward(zero)[0]


def _is_plain(module: Any) -> bool:
    """Whether a module is a linear one of torch or transformers, with dense weights."""
    return type(module) in (nn.Linear, Conv1D) and type(module.weight) in _DENSE


def _reads(module: Any) -> torch.dtype:
    """In which floats a linear module may be given its input."""
    kinds = [tensor.dtype for tensor in (*module.parameters(), *module.buffers())]
    return next((kind for kind in kinds if kind.is_floating_point and kind.itemsize > 1), _WIDE)

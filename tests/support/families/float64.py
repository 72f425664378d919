"""Modelling code computes norms, rotations and routers in float32; here it does so in float64.

Differences of float32 numbers are too coarse to be compared with a derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Float64(TorchFunctionMode):
    """Inside, what would be made, cast or summed in float32 is in float64."""

    def __enter__(self) -> Float64:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") is torch.float32:
            kwargs = {**kwargs, "dtype": torch.float64}
        name = getattr(function, "__name__", "")
        if name == "float" and args and isinstance(args[0], torch.Tensor):
            return args[0].double()
        if name in ("to", "type"):
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        return function(*args, **kwargs)

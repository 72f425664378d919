"""Where attention meets transformers' interface: queries, keys and values, head by head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_utils import AttentionInterface

Face = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # q, k, v: [B, heads, T, e]


@contextmanager
def at_interface(change: Callable[[Any, Face], Face]) -> Iterator[None]:
    """Inside, attention is computed on what `change(module, (q, k, v))` returns."""
    before = AttentionInterface.get_interface

    def get(self: Any, kind: str, default: Any) -> Any:
        attend = before(self, kind, default)

        def attend_changed(module: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
            return attend(module, *change(module, (q, k, v)), *args, **kwargs)

        return attend_changed

    AttentionInterface.get_interface = get
    try:
        yield
    finally:
        AttentionInterface.get_interface = before

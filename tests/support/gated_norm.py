"""A norm with a gate on it, which has no closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Gated(nn.Module):
    """A norm times a gate; `mixes` says by which tokens a token's gate is made."""

    def __init__(self, norm: Any, mixes: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.norm, self.mixes = norm, mixes
        width = len(norm.weight)
        self.gate = nn.Linear(width, width).to(norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) * self.gate(self.mixes(x)).sigmoid()

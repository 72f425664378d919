"""What stands between the stream and a reader where a norm would, and has no closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from analysis.models.linear import wide


@dataclass(frozen=True)
class Map:
    """A module that makes of one token's stream d numbers, such as a norm with a gate on it.

    All that is known of it is what it computes: it has no gain, and nothing that `apply` leaves
    out.
    """

    module: Any
    bias: None = None

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """What the module gives for x, in float32 or wider: [..., d]."""
        return wide(self._forward(x))

    def pull_back(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient at x of what has `gradient` at the output: [..., d]."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self._forward(x)
            (found,) = torch.autograd.grad(y, [x], gradient.to(y))
        return wide(found)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        kinds = {part.dtype for part in self.module.parameters() if part.is_floating_point()}
        narrowest = min(kinds, key=lambda kind: torch.finfo(kind).bits, default=x.dtype)
        # each token as a sequence: what mixes them is found out. forward: no hook is to see this
        y: torch.Tensor = self.module.forward(x.to(narrowest).reshape(-1, 1, x.shape[-1]))
        return y.reshape(x.shape)

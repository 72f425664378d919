"""How far two results are from one another, and how far they may be in a model's dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analysis.models.anatomy import Anatomy
from analysis.models.linear import wide


@dataclass(frozen=True)
class Closeness:
    """What is near enough. sharp: whether all is computed in float32 or float64.

    rounding: what a result may be off by, of its own size. tolerance: what it may be off by beyond
    that, of what is asked about, which may be small beside it.
    """

    sharp: bool
    rounding: float

    @classmethod
    def of(cls, parts: Anatomy) -> Closeness:
        """By the narrowest floats among a model's weights."""
        kinds = {p.dtype for p in parts.decoder.parameters() if p.is_floating_point()}
        narrow = max((torch.finfo(kind).eps for kind in kinds), default=torch.finfo().eps)
        sharp = narrow <= torch.finfo(torch.float32).eps
        return cls(sharp, narrow * (10 if sharp else 1))

    @property
    def tolerance(self) -> float:
        return 1e-3 if self.sharp else 0.05

    def off(self, found: torch.Tensor, expected: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        """How far each token [..., d] is off, of the size of `of` there: [...].

        0 within what rounding makes of the values themselves; infinite where one is not finite.
        """
        found, expected, of = wide(found), wide(expected).to(found.device), wide(of)
        error = (found - expected).norm(dim=-1) - self.rounding * expected.norm(dim=-1)
        share = error.clamp_min(0) / of.norm(dim=-1).clamp_min(1e-30)
        return share.nan_to_num(float("inf"))

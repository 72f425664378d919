"""Which nodes of a layer mix tokens, as convolutions and state-space models do: `x`, not `m`."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from analysis.detection.parts import Parts
from analysis.detection.plan import NodePlan


def letters(layer: nn.Module, parts: Parts) -> tuple[NodePlan, ...]:
    """The nodes of a layer, with their letters."""
    return tuple(replace(node) for node in parts.nodes)

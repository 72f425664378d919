"""Attention-head circuits of causal language models, and how they change during training.

The public names are loaded when first used, so that command lines can print their help at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.attribution import EdgeScores, attribute
    from analysis.circuits import Circuit, select_circuit
    from analysis.pairs import Pair, Pairs

_HOMES = {
    "attribute": "analysis.attribution",
    "EdgeScores": "analysis.attribution",
    "Circuit": "analysis.circuits",
    "select_circuit": "analysis.circuits",
    "Pair": "analysis.pairs",
    "Pairs": "analysis.pairs",
}
__all__ = ["Circuit", "EdgeScores", "Pair", "Pairs", "attribute", "select_circuit"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

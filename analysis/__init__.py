"""Attention-head circuits of causal language models, and how they change during training.

The public names are loaded when first used, so that command lines can print their help at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.attribution import EdgeScores, attribute
    from analysis.circuits import Circuit, select_circuit
    from analysis.graph_files import read_graph, write_graph
    from analysis.pairs import Pair, Pairs
    from analysis.patching import CircuitEvaluation, evaluate_circuit, evaluate_circuits

_HOMES = {
    "Circuit": "analysis.circuits",
    "CircuitEvaluation": "analysis.patching",
    "EdgeScores": "analysis.attribution",
    "Pair": "analysis.pairs",
    "Pairs": "analysis.pairs",
    "attribute": "analysis.attribution",
    "evaluate_circuit": "analysis.patching",
    "evaluate_circuits": "analysis.patching",
    "read_graph": "analysis.graph_files",
    "select_circuit": "analysis.circuits",
    "write_graph": "analysis.graph_files",
}
__all__ = [
    "Circuit",
    "CircuitEvaluation",
    "EdgeScores",
    "Pair",
    "Pairs",
    "attribute",
    "evaluate_circuit",
    "evaluate_circuits",
    "read_graph",
    "select_circuit",
    "write_graph",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""Attention-head circuits of causal language models, and how they change during training.

The public names are loaded when first used, so that command lines can print their help at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.attribution.eap import attribute
    from analysis.attribution.edge_scores import EdgeScores
    from analysis.circuits.circuit import Circuit, select_circuit
    from analysis.circuits.faithfulness import (
        CircuitEvaluation,
        evaluate_circuit,
        evaluate_circuits,
    )
    from analysis.circuits.graph_files import read_graph, write_graph
    from analysis.interventions.head_sets import parse_intervention
    from analysis.interventions.operations import Intervention, constants, intervened
    from analysis.prompts.pairs import Pair, Pairs
    from analysis.records.record import Record, read_record, read_records, read_scores
    from analysis.tracking.settings import TrackingSettings
    from analysis.tracking.tracker import HeadTracker
    from analysis.trajectories.run import Run, read_runs
    from analysis.trajectories.trajectory import trajectory

__version__ = "0.2.0"

_NAMES = {  # home: what is public of it
    "attribution.eap": ("attribute",),
    "attribution.edge_scores": ("EdgeScores",),
    "circuits.circuit": ("Circuit", "select_circuit"),
    "circuits.faithfulness": ("CircuitEvaluation", "evaluate_circuit", "evaluate_circuits"),
    "circuits.graph_files": ("read_graph", "write_graph"),
    "interventions.head_sets": ("parse_intervention",),
    "interventions.operations": ("Intervention", "constants", "intervened"),
    "prompts.pairs": ("Pair", "Pairs"),
    "records.record": ("Record", "read_record", "read_records", "read_scores"),
    "tracking.settings": ("TrackingSettings",),
    "tracking.tracker": ("HeadTracker",),
    "trajectories.run": ("Run", "read_runs"),
    "trajectories.trajectory": ("trajectory",),
}
HOMES = {name: f"analysis.{home}" for home, names in _NAMES.items() for name in names}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})

"""Attention-head circuits of causal language models, and how they change during training.

The public names are loaded when first used, so that command lines can print their help at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from analysis.version import __version__ as __version__

if TYPE_CHECKING:  # `as`: these are names of this package, for type checkers too
    from analysis.attribution.eap import attribute as attribute
    from analysis.attribution.edge_scores import EdgeScores as EdgeScores
    from analysis.circuits.circuit import Circuit as Circuit
    from analysis.circuits.circuit import select_circuit as select_circuit
    from analysis.circuits.faithfulness import CircuitEvaluation as CircuitEvaluation
    from analysis.circuits.faithfulness import evaluate_circuit as evaluate_circuit
    from analysis.circuits.faithfulness import evaluate_circuits as evaluate_circuits
    from analysis.circuits.graph_files import read_graph as read_graph
    from analysis.circuits.graph_files import write_graph as write_graph
    from analysis.heads.roles import head_roles as head_roles
    from analysis.interventions.baking import bake as bake
    from analysis.interventions.head_sets import parse_intervention as parse_intervention
    from analysis.interventions.operations import Intervention as Intervention
    from analysis.interventions.operations import constants as constants
    from analysis.interventions.operations import intervened as intervened
    from analysis.interventions.random_sets import matched_random_sets as matched_random_sets
    from analysis.live.head_tracking import HeadTracking as HeadTracking
    from analysis.models.loading import load_model as load_model
    from analysis.models.loading import load_tokenizer as load_tokenizer
    from analysis.prompts.chat import Prompting as Prompting
    from analysis.prompts.pair_building import answer_style_pairs as answer_style_pairs
    from analysis.prompts.pair_building import counterfactual_pairs as counterfactual_pairs
    from analysis.prompts.pairs import Pair as Pair
    from analysis.prompts.pairs import Pairs as Pairs
    from analysis.prompts.problems import Problem as Problem
    from analysis.prompts.problems import generate as generate
    from analysis.records.evaluations import read_evaluations as read_evaluations
    from analysis.records.record import Record as Record
    from analysis.records.record_files import read_record as read_record
    from analysis.records.record_files import read_records as read_records
    from analysis.records.record_files import read_scores as read_scores
    from analysis.records.run_file import RunFile as RunFile
    from analysis.reporting.report import write_report as write_report
    from analysis.reporting.run_view import RunView as RunView
    from analysis.reporting.run_view import read_run as read_run
    from analysis.tracking.settings import TrackingSettings as TrackingSettings
    from analysis.tracking.tracker import HeadTracker as HeadTracker
    from analysis.trajectories.run import Run as Run
    from analysis.trajectories.run import read_runs as read_runs
    from analysis.trajectories.trajectory import Point as Point
    from analysis.trajectories.trajectory import trajectory as trajectory


_NAMES = {  # home: what is public of it
    "attribution.eap": ("attribute",),
    "attribution.edge_scores": ("EdgeScores",),
    "circuits.circuit": ("Circuit", "select_circuit"),
    "circuits.faithfulness": ("CircuitEvaluation", "evaluate_circuit", "evaluate_circuits"),
    "circuits.graph_files": ("read_graph", "write_graph"),
    "heads.roles": ("head_roles",),
    "interventions.baking": ("bake",),
    "interventions.head_sets": ("parse_intervention",),
    "interventions.operations": ("Intervention", "constants", "intervened"),
    "interventions.random_sets": ("matched_random_sets",),
    "live.head_tracking": ("HeadTracking",),
    "models.loading": ("load_model", "load_tokenizer"),
    "prompts.chat": ("Prompting",),
    "prompts.pair_building": ("answer_style_pairs", "counterfactual_pairs"),
    "prompts.pairs": ("Pair", "Pairs"),
    "prompts.problems": ("Problem", "generate"),
    "records.evaluations": ("read_evaluations",),
    "records.record": ("Record",),
    "records.record_files": ("read_record", "read_records", "read_scores"),
    "records.run_file": ("RunFile",),
    "reporting.report": ("write_report",),
    "reporting.run_view": ("RunView", "read_run"),
    "tracking.settings": ("TrackingSettings",),
    "tracking.tracker": ("HeadTracker",),
    "trajectories.run": ("Run", "read_runs"),
    "trajectories.trajectory": ("Point", "trajectory"),
}
HOMES = {name: f"analysis.{home}" for home, names in _NAMES.items() for name in names}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*HOMES, *(name for name in globals() if name.startswith("__"))})

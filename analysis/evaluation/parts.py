"""The parts of an evaluation: what is asked, how it is answered, what is changed and kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.evaluation.sampling import Sampling
    from analysis.interventions.operations import Intervention
    from analysis.models.graph import Graph
    from analysis.prompts.chat import Prompting
    from analysis.prompts.problems import Problem
    from analysis.records.checkpoints import Named


@dataclass(frozen=True)
class Questions:
    """What is asked. slug: the task in names of files, with the mode of thinking."""

    task: str
    slug: str
    problems: list[Problem]
    prompting: Prompting


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn.

    dtype: of the model's weights; None is that of its files. engine: settings of vLLM, which change
    no answer.
    """

    sampling: Sampling
    seed: int
    backend: str
    dtype: str | None
    engine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """What is changed in a model, and how many random sets of heads are changed to compare with.

    text: as it was written; `none`: nothing, and no graph of the model. reference: pairs file of
    the values that a mean or a resample takes; None: the task's prompts.
    """

    text: str
    intervention: Intervention | None
    graph: Graph | None
    controls: int
    reference: Path | None


@dataclass(frozen=True)
class Output:
    """What becomes of the answers: which pass@k, under which label, in which directory.

    unchanged: directory for the answers of unchanged models, shared between evaluations.
    """

    directory: Path
    unchanged: Path | None
    ks: list[int]
    label: str | None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, checked, with no weight loaded; base: the model of the control, if any."""

    model: Named
    base: Named | None
    questions: Questions
    drawing: Drawing
    change: Change
    output: Output

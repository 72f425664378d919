"""Scores of a run's checkpoints as files, beside its records.

RUN/evaluations/step-000040.json                    on held-out problems
RUN/evaluations/completions/step-000040.jsonl       the answers
RUN/evaluations/TASK/...                            the same on a benchmark
RUN/evaluations/TASK/step-000040/NAME/scores.json   with changed heads
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.files import as_form, check_schema, read_json, write_json
from analysis.records.record_files import recorded_steps
from analysis.records.record_form import SCHEMA

RESULTS = 1  # schema of scores.json
_MEND = "evaluate that checkpoint again"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ends:
    """An interval in a file; null: there is none."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class _Score(_Ends):
    """The form of a score, as far as it is read again."""

    pass_at_1: float


@dataclass(frozen=True)
class _Step(_Score):
    """The form of step-*.json."""

    schema: int
    step: int


@dataclass(frozen=True)
class _Difference(_Ends):
    value: float
    p_value: float | None = None


@dataclass(frozen=True)
class _Results:
    """The form of scores.json."""

    task: str
    conditions: dict[str, _Score]
    comparisons: dict[str, _Difference]
    step: int | None = None
    think: str | None = None
    label: str | None = None
    intervention: str = "none"
    heads: list[str] = field(default_factory=list)


def evaluation_dir(run: Path, task: str | None) -> Path:
    """Where the scores of a task are; None is the held-out part of the training problems."""
    return run / "evaluations" / task if task else run / "evaluations"


def answers_path(run: Path, task: str | None, step: int) -> Path:
    """Where the answers of one checkpoint to a task are kept."""
    return evaluation_dir(run, task) / "completions" / f"step-{step:06d}.jsonl"


def write_evaluation(run: Path, step: int, score: dict[str, Any], task: str | None = None) -> None:
    """Write or replace the score of one step on a task."""
    path = evaluation_dir(run, task) / f"step-{step:06d}.json"
    write_json(path, {"schema": SCHEMA, "step": step, **score})


def read_evaluations(run: Path, task: str | None = None) -> dict[int, dict[str, Any]]:
    """Scores on a task by step; one that can't be read is left out, with a warning."""
    directory = evaluation_dir(run, task)
    found = {}
    for step in _scored_steps(directory):
        path = directory / f"step-{step:06d}.json"
        try:
            content = read_json(path, dict[str, Any])
            check_schema(content, SCHEMA, path, _MEND)
            if (of := as_form(content, _Step, path).step) != step:
                raise ValueError(f"{path} is of step {of}")
        except (ValueError, FileNotFoundError) as error:
            log.warning("left out: %s", error)
        else:
            found[step] = content
    return found


def _scored_steps(directory: Path) -> list[int]:
    return [
        step
        for step in recorded_steps(directory)
        if (directory / f"step-{step:06d}.json").is_file()
    ]


def evaluated_tasks(run: Path) -> list[str]:
    """The tasks, other than held-out problems, on which a run has scores."""
    there = sorted(path for path in (run / "evaluations").glob("*") if path.is_dir())
    return [path.name for path in there if _scored_steps(path)]


def read_interventions(run: Path) -> dict[str, dict[str, Any]]:
    """Results of `headlab evaluate` with an intervention, by their directory's name.

    One that can't be read is left out, with a warning.
    """
    found = {}
    for path in sorted((run / "evaluations").glob("*/step-*/*/scores.json")):
        try:
            result = read_results(path)
        except (ValueError, FileNotFoundError) as error:
            log.warning("left out: %s", error)
            continue
        if result["comparisons"]:
            found[str(path.parent.relative_to(run / "evaluations"))] = result
    return found


def read_results(path: Path) -> dict[str, Any]:
    """The results of an evaluation, as scores.json holds them.

    Raises:
        ValueError: the file can't be read, or lacks what is shown of it.
    """
    content = read_json(path, dict[str, Any])
    if "schema" in content:
        check_schema(content, RESULTS, path, _MEND)
    found = as_form(content, _Results, path)
    needed = ["none", *(["intervention"] if found.comparisons else [])]
    if missing := [name for name in needed if name not in found.conditions]:
        raise ValueError(f"{path}: it has no condition {missing[0]!r}")
    if found.comparisons and "effect" not in found.comparisons:
        raise ValueError(f"{path}: it has comparisons, but no 'effect'")
    shown = ("think", "label", "intervention", "heads", "step")
    return {**{name: getattr(found, name) for name in shown}, **content}

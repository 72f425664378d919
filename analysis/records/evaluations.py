"""Scores of a run's checkpoints as files, beside its records.

RUN/evaluations/step-000040.json                    on held-out problems
RUN/evaluations/completions/step-000040.jsonl       the answers
RUN/evaluations/TASK/...                            the same on a benchmark
RUN/evaluations/TASK/step-000040/NAME/scores.json   with changed heads
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.files import write_json
from analysis.records.record import SCHEMA, recorded_steps


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
    """Scores on a task by step."""
    directory = evaluation_dir(run, task)
    paths = {step: directory / f"step-{step:06d}.json" for step in _scored_steps(directory)}
    return {step: json.loads(path.read_text(encoding="utf-8")) for step, path in paths.items()}


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
    """Results of `headlab evaluate` with an intervention, by their directory's name."""
    paths = sorted((run / "evaluations").glob("*/step-*/*/scores.json"))
    found = {str(p.parent.relative_to(run / "evaluations")): p for p in paths}
    results = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items()}
    return {name: result for name, result in results.items() if result["comparisons"]}

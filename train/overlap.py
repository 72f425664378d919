"""How many questions of an evaluation are trained on too: its score is no held-out score."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from analysis.prompts.problems import Problem, spaceless

if TYPE_CHECKING:
    from train.build import Evaluation

log = logging.getLogger(__name__)


def asked(row: dict[str, Any]) -> str:
    """What the user asks first in a row of training."""
    messages = row.get("prompt") or row["messages"]
    return next(str(m["content"]) for m in messages if m["role"] == "user")


def trained_on(problems: list[Problem], questions: set[int], suffix: str) -> int:
    """Of problems, how many are among the hashes of what is asked in training."""
    return sum(
        any(hash(spaceless(problem.question + end)) in questions for end in {suffix, ""})
        for problem in problems
    )


def warn_of_overlap(rows: Iterable[Any], evaluations: list[Evaluation], suffix: str) -> None:
    """Say in one line for each evaluation if its questions are trained on; `suffix` of training."""
    if not evaluations or os.environ.get("RANK", "0") != "0":
        return
    questions = {hash(spaceless(asked(row))) for row in rows}
    for evaluation in evaluations:
        problems = evaluation.problems
        if count := trained_on(problems, questions, suffix):
            name = evaluation.task or "the held-out evaluation (evaluation.source)"
            log.warning(
                "%d of %d questions of %s are trained on too; its score is no held-out score",
                *(count, len(problems), name),
            )

"""The settings that shape an evaluation's answers: it goes on only with the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.evaluation.asking import digest
from analysis.files import read_json, short_hash, write_json
from analysis.models.loading import fingerprint

if TYPE_CHECKING:
    from analysis.evaluation.parts import Drawing, Evaluation, Questions
    from analysis.records.checkpoints import Named


def asked(questions: Questions, drawing: Drawing) -> str:
    """Tells what is asked, how, and how answers are drawn: equal for equal measurements."""
    q = questions
    return digest(q.problems, q.prompting, drawing.sampling, drawing.seed)


def answer_settings(model: Named, questions: Questions, drawing: Drawing) -> dict[str, Any]:
    """What shapes the answers of a model as it is."""
    sampling = drawing.sampling
    return {
        "model": model.path,
        "weights": fingerprint(model.path),
        "asked": asked(questions, drawing),
        "task": questions.task,
        **questions.prompting.to_json(),
        "n": sampling.samples,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_new_tokens,
        "dtype": drawing.dtype,
        "backend": drawing.backend,
        "seed": drawing.seed,
    }


def settings(evaluation: Evaluation) -> dict[str, Any]:
    """What must be the same for an evaluation to go on: everything that shapes an answer."""
    how, change = (evaluation.questions, evaluation.drawing), evaluation.change
    base, reference = evaluation.base, change.reference
    return {
        **answer_settings(evaluation.model, *how),
        "base": None if base is None else answer_settings(base, *how),
        "intervention": "none" if change.intervention is None else str(change.intervention),
        "reference": None if reference is None else short_hash(reference.read_bytes()),
    }


def keep_settings(directory: Path, now: dict[str, Any]) -> None:
    """Write the settings of a new evaluation, or check that an old one has the same.

    Raises:
        ValueError: naming each that differs, with both values.
    """
    path = directory / "settings.json"
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path, dict[str, Any])
    changed = [name for name in now if before.get(name) != now[name]]
    named = [name for name in changed if name != "asked"]
    differ = [f"{name} ({before.get(name)} -> {now[name]})" for name in named]
    if changed:
        differ = differ or ["the problems are others"]
        raise ValueError(
            f"{directory} holds an evaluation with other settings: {'; '.join(differ)}. Give "
            "the same, or another out=DIR"
        )

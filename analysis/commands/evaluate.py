r"""Measure pass@1 on a benchmark, with and without a change of some heads, against controls.

    headlab evaluate model=runs/my-sft@last task=math500 size=100 n=4 max_new_tokens=2048
    headlab evaluate model=runs/my-sft@last task=arithmetic size=100 \
        intervention=zero:runs/my-sft@last:emergent:10 base=runs/my-sft@0

Sampling is that of arXiv 2509.25758 (temperature 0.6, top-p 0.95). A checkpoint of a run is asked
as the run asks (system prompt, suffix, thinking, date); any other model with the paper's suffix,
for benchmarks and files. With an intervention (analysis/interventions/operations.py) the same
problems are asked, with the same random numbers, of the model as it is, of the changed one, of
`controls` models in which random heads are changed (as many in each layer, none of the set), and of
`base` with and without the change of those heads. Printed are the effect, the effect less that of
random heads, and the effect less that in the base, each with a 95 % interval
(analysis/evaluation/scores.py has the definitions).

OUT/completions/*.jsonl holds every answer, as it comes: the same command goes on where it was
stopped. OUT/scores.json holds the results. OUT is RUN/evaluations/TASK/step-000040/NAME for a
checkpoint of a run, whose report then shows them (`headlab publish` gives the score to
W&B); the base is what the run started from. OUT/settings.json holds all that shapes an answer,
the heads and weights included: an evaluation goes on with the same alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.evaluation.setup import Options, check, prepare

if TYPE_CHECKING:
    from analysis.evaluation.parts import Questions
    from analysis.records.checkpoints import Named


def act(options: Options) -> None:
    """Evaluate every condition; print and write the results."""
    from transformers.utils import logging as transformers_logging

    from analysis.evaluation.conditions import evaluate_conditions
    from analysis.evaluation.settings import asked, keep_settings, settings
    from analysis.files import write_json
    from analysis.records.locks import Lock
    from analysis.reporting.evaluation_text import format_result

    transformers_logging.disable_progress_bar()
    evaluation = prepare(options)
    model, out = evaluation.model, evaluation.output.directory
    with Lock.take(out / "lock", f"the evaluation in {out}"):
        keep_settings(out, settings(evaluation))
        result = evaluate_conditions(evaluation)
        write_json(out / "scores.json", result)
    print(format_result(result))
    print(f"wrote {out / 'scores.json'}")
    if model.run is not None and model.step is not None:
        measured = asked(evaluation.questions, evaluation.drawing)
        score = {**result["conditions"]["none"], "asked": measured}
        if remark := far_below_held_out(model, score, evaluation.questions):
            print(remark)
        show_in_run(model.run, model.step, evaluation.questions.slug, score)


def far_below_held_out(model: Named, score: dict[str, Any], questions: Questions) -> str | None:
    """A line where a checkpoint scores far below its run's own held-out problems; else None.

    Far: its whole interval is below half of the other.
    """
    from analysis.records.evaluations import read_evaluations
    from analysis.records.run_prompting import own_prompting

    assert model.run is not None and model.step is not None
    own = read_evaluations(model.run).get(model.step, {})
    high, low = score.get("high"), own.get("low")  # none, or NaN, of a single problem
    if high is None or low is None or not high < low / 2:
        return None
    asked, usual = questions.prompting, own_prompting(model)
    differ = [
        f"{name}={getattr(asked, name)!r} instead of {getattr(usual, name)!r}"
        for name in ("system_prompt", "suffix", "think", "prefix")
        if usual is not None and getattr(asked, name) != getattr(usual, name)
    ]
    how = f"is asked otherwise ({'; '.join(differ)})" if differ else "is another task"
    return (
        f"remark: {100 * score['pass_at_1']:.1f} % is far below the {100 * own['pass_at_1']:.1f} % "
        f"of the run's own held-out problems at step {model.step}; this {how}"
    )


def show_in_run(run: Path, step: int, task: str, score: dict[str, Any]) -> None:
    """Give the score of an unchanged checkpoint to its run, and bring the run's report up to date.

    A score that is there and was measured with other settings stays, and that is said.
    """
    from analysis.records.evaluations import read_evaluations, write_evaluation
    from analysis.records.run_file import is_run
    from analysis.reporting.present import present

    there = read_evaluations(run, task).get(step)
    if there is None or there.get("asked") == score["asked"]:
        write_evaluation(run, step, score, task)
    else:
        print(f"{run} keeps its score of step {step}, which was measured with other settings")
    if is_run(run):
        present(run)


__all__ = ["Options", "act", "check", "prepare"]

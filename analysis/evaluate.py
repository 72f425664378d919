r"""Measure pass@1 on a benchmark, with and without a change of some heads, against controls.

    python -m analysis.evaluate model=runs/my-sft@last task=math500 size=100 n=4 max_new_tokens=2048
    python -m analysis.evaluate model=runs/my-sft@last task=arithmetic size=100 \
        intervention=zero:runs/my-sft@last:emergent:10 base=runs/my-sft@0

Sampling is that of arXiv 2509.25758 (temperature 0.6, top-p 0.95, its suffix for benchmarks). With
an intervention (analysis/intervene.py) the same problems are asked, with the same random numbers,
of the model as it is, of the changed one, of `controls` models in which random heads are changed
(as many in each layer, none of the set), and of `base` with and without the change of those heads.
Printed are the effect, the effect less that of random heads, and the effect less that in the base,
each with a 95 % interval (analysis/scores.py has the definitions).

OUT/completions/*.jsonl holds every answer, as it comes: the same command goes on where it was
stopped. OUT/scores.json holds the results. OUT is RUN/evaluations/TASK/step-000040/NAME for a
checkpoint of a run, whose report then shows them (`python -m analysis.publish` gives the score to
W&B); the base is what the run started from. OUT/settings.json holds all that shapes an answer,
the heads and weights included: an evaluation goes on with the same alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key, main
from analysis.evaluation_setup import check, keep_settings, prepare

if TYPE_CHECKING:
    from analysis.evaluation_setup import Setup


@dataclass
class Options:
    model: str = key("directory or hub name of a model or adapter, or RUN@STEP (RUN@last)")
    task: str = key(
        "aime24, aime25, amc23, amc, math500, gsm8k, gpqa, arithmetic, reasoning_gym:TASK or "
        "jsonl:FILE"
    )
    options: Any = key("of a generator: 'options={terms: 3}'", None)
    size: int | None = key("problems; null: all, or 100 of a generator", None)
    n: int = key("samples of each problem", 4)
    k: Any = key("pass@k and success within the first k: k=4 or k=[1,4]", 1)
    intervention: str = key(
        "none, or zero:, scale:FACTOR:, mean:, mean_by_position: or resample:, then HEADS "
        "(L3H2,L5H1, a circuit's file, RUN@STEP:emergent:10)",
        "none",
    )
    controls: int = key("random sets of heads, matched in number and layers", 10)
    base: str | None = key(
        "model in which the same heads are changed too; null: what the run of model began with; "
        "none: no such control",
        None,
    )
    reference: str | None = key("pairs file for mean and resample; null: the task's prompts", None)
    think: Any = key("on or off; null: the chat template's default", None)
    system_prompt: str | None = key("before the question", None)
    suffix: str | None = key("after the question; null: the paper's, none for generators", None)
    prefix: str = key("text that begins the answer", "")
    temperature: float = key("0 is greedy", 0.6)
    top_p: float = key("share of the probability that is drawn from", 0.95)
    max_new_tokens: int = key("where an answer is cut off", 1024)
    batch_size: int = key("answers decoded together", 16)
    seed: int = key("of the problems and the random numbers", 0)
    dtype: str | None = key("float32, bfloat16 or float64; null: that of the files", None)
    backend: str = key("hf, or vllm (optional extra), which runs baked checkpoints", "hf")
    label: str | None = key("what this result stands for: TABLE/ROW/CONDITION", None)
    out: str | None = key("directory; null: in the run, or evaluations/MODEL/TASK", None)
    unchanged: str | None = key(
        "directory for the answers of unchanged models, shared by all evaluations that name it",
        None,
    )


def act(options: Options) -> None:
    """Evaluate every condition; print and write the results."""
    from transformers.utils import logging as transformers_logging

    from analysis.conditions import evaluate_conditions
    from analysis.locks import Lock
    from analysis.records import write_json
    from analysis.score_text import format_result

    transformers_logging.disable_progress_bar()
    setup = prepare(options)
    with Lock.take(setup.out / "lock", f"the evaluation in {setup.out}"):
        keep_settings(setup)
        result = evaluate_conditions(setup)
        write_json(setup.out / "scores.json", result)
    print(format_result(result))
    print(f"wrote {setup.out / 'scores.json'}")
    if setup.model.run is not None and setup.model.step is not None:
        show_in_run(setup, setup.model.run, setup.model.step, result["conditions"]["none"])


def show_in_run(setup: Setup, run: Path, step: int, score: dict[str, Any]) -> None:
    """Give the score of an unchanged checkpoint to its run, and bring the run's report up to date.

    A score that is there and was measured with other settings stays, and that is said.
    """
    from analysis.evaluation import digest
    from analysis.monitor import WandbMirror
    from analysis.present import present
    from analysis.publish import Publisher
    from analysis.score_files import read_evaluations, write_evaluation

    asked = digest(setup.problems, setup.prompting, setup.sampling, setup.options.seed)
    there = read_evaluations(run, setup.task).get(step)
    if there is None or there.get("asked") == asked:
        write_evaluation(run, step, {**score, "asked": asked}, setup.task)
    else:
        print(f"{run} keeps its score of step {step}, which was measured with other settings")
    if (run / "config.yaml").is_file():
        present(Publisher(run, WandbMirror(None)))


__all__ = ["Options", "act", "check", "prepare"]


if __name__ == "__main__":
    main(Options, __doc__ or "", act)

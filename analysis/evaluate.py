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
W&B); the base is what the run started from.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key, main, on_off

if TYPE_CHECKING:
    from analysis.loading import Named
    from analysis.prompts import Prompting
    from analysis.sampling import Sampling

BACKENDS = ("hf", "vllm")


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
    k: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "pass@k and success within the first k: k=[1,4]"},
    )
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


@dataclass(frozen=True)
class Setup:
    """What the options mean, checked, with no weight loaded."""

    options: Options
    model: Named
    base: Named | None
    out: Path
    task: str  # slug, with the mode of thinking
    problems: list[Any]
    prompting: Prompting
    sampling: Sampling


def prepare(options: Options) -> Setup:
    """Everything that can be wrong with the options, before any weight is loaded.

    Raises:
        ValueError: with the offending value and the mend.
    """
    from analysis.benchmarks import default_suffix, load_task, slug
    from analysis.loading import find_model
    from analysis.measurement import DTYPES
    from analysis.prompts import Prompting
    from analysis.sampling import Sampling
    from analysis.vllm_backend import check_vllm

    o = options
    think = on_off("think", o.think)
    for name, allowed in (("backend", BACKENDS), ("dtype", DTYPES)):
        given = getattr(o, name)
        if given is not None and given not in allowed:
            raise ValueError(f"{name} is {given!r}; choose one of: {', '.join(allowed)}")
    for k in o.k:
        if not 1 <= k <= o.n:
            raise ValueError(f"k={k} needs as many samples of each problem at least; n is {o.n}")
    if o.controls < 0:
        raise ValueError(f"controls must be 0 or more, not {o.controls}")
    if o.options is not None and not isinstance(o.options, dict):
        raise ValueError(f"options is {o.options!r}; write 'options={{terms: 3}}'")
    if o.reference is not None and not Path(o.reference).is_file():
        raise ValueError(f"there is no pairs file {o.reference}")
    if o.backend == "vllm":
        check_vllm()
    model = find_model(o.model)
    task = slug(o.task) + (f"-think-{think}" if think else "")
    suffix = default_suffix(o.task) if o.suffix is None else o.suffix
    return Setup(
        options=o,
        model=model,
        base=base_of(model, o.base) if o.intervention != "none" else None,
        out=Path(o.out) if o.out is not None else default_out(model, task, o.intervention),
        task=task,
        problems=load_task(o.task, o.size, o.seed, dict(o.options or {})),
        prompting=Prompting(o.system_prompt, suffix, think=think, prefix=o.prefix),
        sampling=Sampling(o.n, o.temperature, o.top_p, o.max_new_tokens, o.batch_size),
    )


def base_of(model: Named, given: str | None) -> Named | None:
    """The model that the same heads are changed in: as given, or step 0 of the model's run."""
    from analysis.loading import Base, find_model

    if given == "none":
        return None
    if given is not None:
        return find_model(given)
    if model.run is None or model.step == 0 or Base.read(model.run) is None:
        return None
    return find_model(f"{model.run}@0")


def default_out(model: Named, task: str, intervention: str) -> Path:
    """Where the results of a model, a task and an intervention go."""
    name = re.sub(r"[^:,]*/", "", intervention)  # of paths, the last part
    name = re.sub(r"[^\w.-]+", "-", name).strip("-")
    if len(name) > 60:
        name = f"{name[:48]}-{hashlib.sha256(intervention.encode()).hexdigest()[:8]}"
    if model.run is None:
        return Path("evaluations") / model.label / task / name
    return model.run / "evaluations" / task / f"step-{model.step:06}" / name


def settings(setup: Setup) -> dict[str, Any]:
    """What must be the same for an evaluation to go on: everything that shapes an answer."""
    o = asdict(setup.options)
    for name in ("k", "controls", "label", "out", "batch_size"):
        del o[name]
    o["model"], o["base"] = setup.model.path, setup.base.path if setup.base else None
    o["suffix"], o["think"] = setup.prompting.suffix, setup.prompting.think
    text = "\n".join(f"{p.question}\t{p.answer}" for p in setup.problems)
    return {**o, "problems": hashlib.sha256(text.encode()).hexdigest()[:16]}


def keep_settings(setup: Setup) -> None:
    """Write the settings of a new evaluation, or check that an old one has the same.

    Raises:
        ValueError: naming each that differs, with both values.
    """
    import json

    from analysis.records import write_json

    path, now = setup.out / "settings.json", settings(setup)
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        differ = [f"{n} ({before.get(n)} -> {now[n]})" for n in now if before.get(n) != now[n]]
        if differ:
            raise ValueError(
                f"{setup.out} holds an evaluation with other settings: {'; '.join(differ)}. Give "
                "the same, or another out=DIR"
            )
        return
    write_json(path, now)


def act(options: Options) -> None:
    """Evaluate every condition; print and write the results."""
    from transformers.utils import logging as transformers_logging

    from analysis.conditions import evaluate_conditions
    from analysis.monitor import WandbMirror
    from analysis.present import present
    from analysis.publish import Publisher
    from analysis.records import write_json
    from analysis.score_files import write_evaluation
    from analysis.score_text import format_result

    transformers_logging.disable_progress_bar()
    setup = prepare(options)
    keep_settings(setup)
    result = evaluate_conditions(setup)
    write_json(setup.out / "scores.json", result)
    if setup.model.run is not None and setup.model.step is not None:
        plain = result["conditions"]["none"]
        write_evaluation(setup.model.run, setup.model.step, plain, setup.task)
        if (setup.model.run / "config.yaml").is_file():
            present(Publisher(setup.model.run, WandbMirror(None)))
    print(format_result(result))
    print(f"wrote {setup.out / 'scores.json'}")


if __name__ == "__main__":
    main(Options, __doc__ or "", act)

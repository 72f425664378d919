"""What the options of `headlab evaluate` mean, checked before any weight is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.files import short_hash
from analysis.prompts.chat import on_off
from analysis.ranges import COUNT, NATURAL, PART, SEED

if TYPE_CHECKING:
    from analysis.evaluation.parts import Evaluation
    from analysis.models.graph import Graph
    from analysis.records.checkpoints import Named

BACKENDS = ("hf", "vllm")


def ks_of(k: object) -> list[int]:
    """The numbers that `k=4` or `k=[1,4]` names.

    Raises:
        ValueError: it is neither.
    """
    given = k if isinstance(k, list) else [k]
    found = [value for value in given if type(value) is int]
    if len(found) < len(given):
        raise ValueError(f"k is {k!r}; write a number or a list, such as k=[1,4]")
    return found


def check(options: Options) -> None:
    """What can be said of options without loading data or a model.

    Raises:
        ValueError: with the offending value and the mend.
    """
    from analysis.evaluation.sampling import Sampling
    from analysis.evaluation.vllm_engine import check_engine, check_vllm
    from analysis.interventions.head_sets import split_intervention
    from analysis.models.loading import DTYPES
    from analysis.prompts.benchmarks import check_task

    o = options
    on_off("think", o.think)
    for name, allowed in (("backend", BACKENDS), ("dtype", DTYPES)):
        given = getattr(o, name)
        if given is not None and given not in allowed:
            raise ValueError(f"{name} is {given!r}; choose one of: {', '.join(allowed)}")
    Sampling(o.n, o.temperature, o.top_p, o.max_new_tokens, o.batch_size)
    for k in ks_of(o.k):
        if not 1 <= k <= o.n:
            raise ValueError(f"k={k} needs as many samples of each problem at least; n is {o.n}")
    if o.controls < 0:
        raise ValueError(f"controls must be 0 or more, not {o.controls}")
    if o.options is not None and not isinstance(o.options, dict):
        raise ValueError(f"options is {o.options!r}; write 'options={{terms: 3}}'")
    check_task(o.task)
    if split_intervention(o.intervention) is None and o.base not in (None, "none"):
        raise ValueError(f"base={o.base} is for an intervention, and there is none")
    check_engine(o.engine, o.backend)
    if o.backend == "vllm":
        check_vllm(o.dtype)


def prepare(options: Options) -> Evaluation:
    """Everything that can be wrong with the options, before the models are loaded.

    Raises:
        ValueError: with the offending value and the mend.
    """
    from analysis.detection.shape import graph_of
    from analysis.evaluation.parts import Change, Drawing, Evaluation, Output, Questions
    from analysis.evaluation.sampling import Sampling
    from analysis.evaluation.vllm_engine import check_bakes
    from analysis.interventions.head_sets import parse_intervention
    from analysis.models.loading import load_config
    from analysis.prompts.benchmarks import default_suffix, load_task, slug
    from analysis.prompts.columns import Columns
    from analysis.records.checkpoints import find_model
    from analysis.records.run_prompting import prompting_for

    o = options
    check(o)
    # what is there: the reference and the model
    reference = None if o.reference is None else Path(o.reference)
    if reference is not None and not reference.is_file():
        raise ValueError(f"there is no pairs file {reference}")
    model, think = find_model(o.model), on_off("think", o.think)
    config = load_config(model.path, model.base)
    # what is asked and how: thinking is part of a task's name, since it is another measurement
    task = slug(o.task) + (f"-think-{think}" if think else "")
    asked = prompting_for(model, o.system_prompt, o.suffix, think, o.task, default_suffix(o.task))
    columns = Columns(
        o.problem_column, o.answer_column, pattern=o.answer_pattern, system=asked.system_prompt
    )
    sampling = Sampling(o.n, o.temperature, o.top_p, o.max_new_tokens, o.batch_size)
    problems = load_task(o.task, o.size, o.seed, dict(o.options or {}), columns)
    # what is changed, for which the model's shape is looked for
    graph = graph_of(model.path, model.base) if o.intervention != "none" else None
    intervention = parse_intervention(o.intervention, graph) if graph is not None else None
    # the control: the same heads in a base of the same shape
    base = base_of(model, o.base) if graph is not None else None
    if base is not None and graph is not None:
        _check_same_shape(graph_of(base.path, base.base), graph)
    if intervention is not None and o.backend == "vllm":
        check_bakes(intervention.operation, config.model_type)
    return Evaluation(
        model,
        base,
        Questions(
            o.task,
            task,
            problems,
            replace(asked, prefix=o.prefix),
        ),
        Drawing(sampling, o.seed, o.backend, o.dtype or model.dtype, dict(o.engine or {})),
        Change(o.intervention, intervention, graph, o.controls, reference),
        Output(
            Path(o.out) if o.out is not None else default_out(model, task, o.intervention),
            None if o.unchanged is None else Path(o.unchanged),
            ks_of(o.k),
            o.label,
        ),
    )


def _check_same_shape(base: Graph, graph: Graph) -> None:
    from analysis.models.unlike import unlike_heads

    if (unlike := unlike_heads(base, graph)) is not None:
        raise ValueError(
            f"the base has {unlike[0]}, and the model {unlike[1]}; give a base of the same "
            "architecture, or base=none"
        )


def base_of(model: Named, given: str | None) -> Named | None:
    """The model that the same heads are changed in: as given, or step 0 of the model's run."""
    from analysis.records.checkpoints import Base, find_model

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
        name = f"{name[:48]}-{short_hash(intervention, 8)}"
    if model.run is None:
        return Path("evaluations") / model.label / task / name
    return model.run / "evaluations" / task / f"step-{model.step:06}" / name


@dataclass
class Options:
    model: str = key("directory or hub name of a model or adapter, or RUN@STEP (RUN@last)")
    task: str = key(
        "aime24, aime25, amc23, amc, math500, gsm8k, gpqa, arithmetic, reasoning_gym:TASK or "
        "file:FILE"
    )
    options: Any = key("of a generator: 'options={terms: 3}'", None)
    problem_column: str = key("of a file", "problem")
    answer_column: str = key("of a file", "answer")
    answer_pattern: str | None = key("of a file: its first group is the answer", None)
    size: int | None = key("problems; null: all, or 100 of a generator", None, COUNT)
    n: int = key("samples of each problem", 4, COUNT)
    k: Any = key("pass@k and success within the first k: k=4 or k=[1,4]", 1, COUNT)
    intervention: str = key(
        "none, or zero:, scale:FACTOR:, mean:, mean_by_position: or resample:, then HEADS "
        "(L3H2,L5H1, a circuit's file, RUN@STEP:emergent:10)",
        "none",
    )
    controls: int = key("random sets of heads, matched in number and layers", 10, NATURAL)
    base: str | None = key(
        "model in which the same heads are changed too; null: what the run of model began with; "
        "none: no such control",
        None,
    )
    reference: str | None = key("pairs file for mean and resample; null: the task's prompts", None)
    think: Any = key("on or off; null: as the model's run, or the chat template's default", None)
    system_prompt: str | None = key(
        "before the question; null: that of the model's run", None, prose=True
    )
    suffix: str | None = key(
        "after the question; null: as in the model's run; without one the paper's, none for "
        "generators",
        None,
        prose=True,
    )
    prefix: str = key("text that begins the answer", "", prose=True)
    temperature: float = key("0 is greedy", 0.6, NATURAL)
    top_p: float = key("share of the probability that is drawn from", 0.95, PART)
    max_new_tokens: int = key("where an answer is cut off", 1024, COUNT)
    batch_size: int = key("answers decoded together", 16, COUNT)
    seed: int = key("of the problems and the random numbers", 0, SEED)
    dtype: str | None = key("float32, bfloat16 or float64; null: that of the files", None)
    backend: str = key("hf, or vllm (optional extra), which runs baked checkpoints", "hf")
    engine: Any = key(
        "of vLLM: 'engine={gpu_memory_utilization: 0.5, tensor_parallel_size: 2, max_model_len: "
        "8192, max_num_seqs: 64, enforce_eager: true}'",
        None,
    )
    label: str | None = key("what this result stands for: TABLE/ROW/CONDITION", None, prose=True)
    out: str | None = key("directory; null: in the run, or evaluations/MODEL/TASK", None)
    unchanged: str | None = key(
        "directory for the answers of unchanged models, shared by all evaluations that name it",
        None,
    )

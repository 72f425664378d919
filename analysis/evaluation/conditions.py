"""The conditions of an evaluation: a model as it is, changed, with random heads, and its base.

none                 the model as it is
intervention         the change that was asked for
random-1 .. R        the same operation on random heads, matched in number and layers
base, base+intervention       another model, as it is and with the same heads changed
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.evaluation.asking import Complete, fill_store, n_distinct, requests_of, score_of
from analysis.evaluation.completions import Completions
from analysis.evaluation.sampling import Completion, Request, sample
from analysis.evaluation.scores import compare
from analysis.evaluation.settings import answer_settings
from analysis.evaluation.vllm_engine import Engine, engine
from analysis.files import short_hash
from analysis.interventions.baking import save_baked
from analysis.interventions.operations import (
    NEED_REFERENCE,
    Intervention,
    constants,
    intervened,
    read_reference,
)
from analysis.interventions.random_sets import matched_random_sets
from analysis.models.configuration import context, room
from analysis.models.graph import head_name
from analysis.models.hub import place
from analysis.models.loading import (
    adapter_base,
    check_weights,
    load_config,
    load_model,
)
from analysis.prompts.pairs import encode
from analysis.records.checkpoints import Named
from analysis.records.evaluations import RESULTS

if TYPE_CHECKING:
    from analysis.evaluation.parts import Change, Drawing, Evaluation, Output, Questions
    from analysis.models.loading import Config, Model, Tokenizer

log = logging.getLogger(__name__)

REFERENCE_PROMPTS = 64  # of the task, where no pairs file is given
AT_ONCE = 128  # answers that vLLM gets in one call


@dataclass(frozen=True)
class Condition:
    """One column of an evaluation: a model (the subject or the base) and what is changed in it."""

    name: str
    model: Named
    intervention: Intervention | None


def conditions_of(model: Named, base: Named | None, change: Change, seed: int) -> list[Condition]:
    """All conditions, the subject's before the base's, so that each model is loaded once."""
    found, intervention = [Condition("none", model, None)], change.intervention
    if intervention is None or change.graph is None:
        return found
    found.append(Condition("intervention", model, intervention))
    sets = []
    if change.controls:
        sets = matched_random_sets(intervention.heads, change.graph, change.controls, seed)
    for index, heads in enumerate(sets, start=1):
        found.append(Condition(f"random-{index}", model, intervention.on(heads)))
    if base is not None:
        found += [
            Condition("base", base, None),
            Condition("base+intervention", base, intervention),
        ]
    return found


def evaluate_conditions(evaluation: Evaluation) -> dict[str, Any]:
    """Fill the stores of all conditions; the content of scores.json."""
    e = evaluation
    conditions = conditions_of(e.model, e.base, e.change, e.drawing.seed)
    paths = {c.name: _store_path(c, e.questions, e.drawing, e.output) for c in conditions}
    opened = {path: Completions(path) for path in set(paths.values())}
    stores = {name: opened[path] for name, path in paths.items()}
    with engine(e.drawing.sampling, e.drawing.seed, e.drawing.engine) as vllm:
        for model in (e.model, e.base):
            if model is not None:
                some = [condition for condition in conditions if condition.model is model]
                _fill(model, some, stores, e.questions, e.drawing, e.change, vllm)
    return _result(evaluation, conditions, stores)


def _store_path(
    condition: Condition, questions: Questions, drawing: Drawing, output: Output
) -> Path:
    """Where the answers of a condition are kept; those of unchanged models may be shared."""
    if condition.intervention is not None or output.unchanged is None:
        return output.directory / "completions" / f"{condition.name}.jsonl"
    text = json.dumps(answer_settings(condition.model, questions, drawing), sort_keys=True)
    return output.unchanged / f"{questions.slug}-{short_hash(text)}.jsonl"


def _fill(
    model: Named,
    conditions: Sequence[Condition],
    stores: dict[str, Completions],
    questions: Questions,
    drawing: Drawing,
    change: Change,
    vllm: Engine,
) -> None:
    """Draw what is missing of the conditions of one model, which is loaded if anything is."""
    tokenizer, sampling = model.load_tokenizer(), drawing.sampling
    problems = questions.problems
    requests = requests_of(tokenizer, problems, questions.prompting, sampling.samples)
    missing = [c for c in conditions if not all(stores[c.name].has(r) for r in requests)]
    if not missing:
        return
    config = load_config(model.path, model.base)
    check_room(config, tokenizer, requests, sampling.max_new_tokens)
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    reference = _reference(change, config, tokenizer, prompts)
    by_vllm = drawing.backend == "vllm"
    size = AT_ONCE if by_vllm else sampling.batch_size
    loaded = None if by_vllm else load_model(model.path, drawing.dtype, base=model.base)
    # one engine holds all conditions, so that if one of them has biases all have
    biased = change.intervention is not None and change.intervention.operation == "mean"
    for condition in missing:
        answering = (
            _by_vllm(condition, drawing, tokenizer, reference, vllm, biased)
            if by_vllm
            else _by_hf(condition, drawing, tokenizer, reference, loaded)
        )
        with answering as complete:
            store = stores[condition.name]
            fill_store(store, requests, problems, complete, size, condition.name)


def check_room(
    config: Config,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    max_new_tokens: int,
) -> None:
    """Say that answers may go beyond a model's context.

    Raises:
        ValueError: the model's positions are a table, so that it has none beyond.
    """
    limit = context(config)
    longest = max(len(encode(tokenizer, r.prompt)) for r in requests)
    if limit is None or longest + max_new_tokens <= limit:
        return
    what = f"prompts of up to {longest} tokens and max_new_tokens={max_new_tokens}"
    if room(config, longest + max_new_tokens) is not None:
        raise ValueError(
            f"{what} do not fit the model, which has positions for {limit} tokens; give "
            f"max_new_tokens={max(1, limit - longest)}"
        )
    log.warning("%s go beyond the %d tokens that the model was trained on", what, limit)


def _reference(
    change: Change,
    config: Config,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
) -> list[tuple[int, ...]]:
    """Token ids of the prompts that means and resampled values are taken from."""
    if change.intervention is None or change.intervention.operation not in NEED_REFERENCE:
        return []
    if change.reference is None:
        return [encode(tokenizer, prompt) for prompt in prompts[:REFERENCE_PROMPTS]]
    return read_reference(change.reference, tokenizer, config)


@contextmanager
def _by_hf(
    condition: Condition,
    drawing: Drawing,
    tokenizer: Tokenizer,
    reference: Sequence[Sequence[int]],
    model: Model | None,
) -> Iterator[Complete]:
    """A function from requests to completions of a loaded model under a condition."""
    assert model is not None, "loaded for this backend"
    change, seed = condition.intervention, drawing.seed
    added = None if change is None else constants(model, change, reference, seed)
    with intervened(model, change, added):

        def complete(batch: list[Request]) -> list[Completion]:
            return sample(model, tokenizer, batch, drawing.sampling, seed)

        yield complete


@contextmanager
def _by_vllm(
    condition: Condition,
    drawing: Drawing,
    tokenizer: Tokenizer,
    reference: Sequence[Sequence[int]],
    vllm: Engine,
    biased: bool,
) -> Iterator[Complete]:
    """A function from requests to completions of vLLM, which runs whole checkpoints only."""
    change, model = condition.intervention, condition.model
    dtype = drawing.dtype
    if dtype is None:
        dtype = str(load_config(model.path, model.base).dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory(prefix="headlab-baked-") as scratch:
        if change is None and not biased and adapter_base(model.path) is None:
            check_weights(model.path)
            path = str(place(model.path, weights=True))
        else:
            # on the CPU: the GPU's memory is the engine's
            fresh = load_model(model.path, drawing.dtype, "cpu", model.base)
            added = None
            if change is not None:
                added = constants(fresh, change, reference, drawing.seed)
            path = f"{scratch}/model"
            save_baked(Path(path), fresh, tokenizer, change, added, biased)
            del fresh
        vllm.hold(path, dtype, tokenizer)
        yield vllm.complete


def _result(
    evaluation: Evaluation, conditions: Sequence[Condition], stores: dict[str, Completions]
) -> dict[str, Any]:
    e, seed, sampling = evaluation, evaluation.drawing.seed, evaluation.drawing.sampling
    problems, samples = e.questions.problems, sampling.samples
    scores = {
        c.name: score_of(stores[c.name], problems, samples, e.output.ks, seed).to_json()
        for c in conditions
    }
    found: dict[str, Any] = {}
    if e.change.intervention is not None:
        right = {c.name: stores[c.name].right(len(problems), samples) for c in conditions}
        compared = compare(right, seed=seed, distinct=n_distinct(problems))
        found = {name: d.to_json() for name, d in compared.items()}
    changed = {c.name: c.intervention for c in conditions if c.intervention is not None}
    names = {name: [head_name(h) for h in change.heads] for name, change in changed.items()}
    return {
        "schema": RESULTS,
        "task": e.questions.task,
        "model": e.model.path,
        "base": e.base.path if e.base else None,
        "step": e.model.step,
        "think": e.questions.prompting.think,
        "label": e.output.label,
        "intervention": e.change.text,
        "heads": names.get("intervention", []),
        "changed": names,
        "settings": {"sampling": vars(sampling), "seed": seed, "backend": e.drawing.backend},
        "conditions": scores,
        "comparisons": found,
    }

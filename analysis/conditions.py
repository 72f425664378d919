"""The conditions of an evaluation: a model as it is, changed, with random heads, and its base.

none                 the model as it is
intervention         the change that was asked for
random-1 .. R        the same operation on random heads, matched in number and layers
base, base+intervention       another model, as it is and with the same heads changed
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.anatomy import anatomy
from analysis.baking import save_baked
from analysis.completions import Completions
from analysis.evaluation import Complete, fill_store, requests_of, score_of
from analysis.head_sets import head_name, matched_random_sets
from analysis.intervene import (
    NEED_REFERENCE,
    Intervention,
    constants,
    intervened,
    parse_intervention,
)
from analysis.loading import Named, load_model, load_tokenizer
from analysis.pairs import Pairs, encode, holds_text
from analysis.sampling import Completion, Request, sample
from analysis.scores import compare
from analysis.vllm_backend import engine

if TYPE_CHECKING:
    from analysis.evaluate import Setup

SCHEMA = 1
REFERENCE_PROMPTS = 64  # of the task, where no pairs file is given
AT_ONCE = 512  # answers that vLLM gets in one call


@dataclass(frozen=True)
class Condition:
    """One column of an evaluation: a model (the subject or the base) and what is changed in it."""

    name: str
    of_base: bool
    intervention: Intervention | None


def conditions_of(
    intervention: Intervention | None, graph: Any, controls: int, base: bool, seed: int
) -> list[Condition]:
    """All conditions, the subject's before the base's, so that each model is loaded once."""
    found = [Condition("none", False, None)]
    if intervention is None:
        return found
    found.append(Condition("intervention", False, intervention))
    for index, heads in enumerate(
        matched_random_sets(intervention.heads, graph, controls, seed) if controls else [], start=1
    ):
        found.append(Condition(f"random-{index}", False, intervention.on(heads)))
    if base:
        found += [
            Condition("base", True, None),
            Condition("base+intervention", True, intervention),
        ]
    return found


def evaluate_conditions(setup: Setup) -> dict[str, Any]:
    """Fill the stores of all conditions; the content of scores.json."""
    o = setup.options
    device = "cpu" if o.backend == "vllm" else "auto"  # the engine needs the GPU's memory
    model = load_model(setup.model.path, o.dtype, device)
    intervention = parse_intervention(o.intervention, _graph(model, o.intervention))
    conditions = conditions_of(
        intervention,
        None if intervention is None else anatomy(model).graph,
        o.controls,
        setup.base is not None,
        o.seed,
    )
    stores = {
        c.name: Completions(setup.out / "completions" / f"{c.name}.jsonl") for c in conditions
    }
    _fill(setup, setup.model, model, [c for c in conditions if not c.of_base], stores)
    of_base = [c for c in conditions if c.of_base]
    if of_base and setup.base is not None:
        del model  # before the next one needs the memory
        model = load_model(setup.base.path, o.dtype, device)
        assert intervention is not None
        _check_same_shape(anatomy(model).graph, intervention)
        _fill(setup, setup.base, model, of_base, stores)
    return _result(setup, conditions, stores, intervention)


def _graph(model: Any, intervention: str) -> Any:
    return None if intervention == "none" else anatomy(model).graph


def _check_same_shape(graph: Any, intervention: Intervention) -> None:
    layer, head = max(intervention.heads)[0], max(head for _, head in intervention.heads)
    if layer >= graph.n_layers or head >= graph.n_heads:
        raise ValueError(
            f"the base has layers 0-{graph.n_layers - 1} and heads 0-{graph.n_heads - 1}, and the "
            f"intervention is on L{layer} and H{head}; give a base of the same architecture"
        )


def _fill(
    setup: Setup,
    named: Named,
    model: Any,
    conditions: Sequence[Condition],
    stores: dict[str, Completions],
) -> None:
    """Draw what is missing of the conditions of one model."""
    tokenizer = load_tokenizer(named.path)
    requests = requests_of(tokenizer, setup.problems, setup.prompting, setup.sampling.samples)
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    reference = _reference(setup, tokenizer, prompts)
    size = setup.sampling.batch_size if setup.options.backend == "hf" else AT_ONCE
    for condition in conditions:
        store = stores[condition.name]
        if all(store.has(request) for request in requests):
            continue
        with _answering(setup, named, model, tokenizer, condition, reference) as complete:
            fill_store(store, requests, setup.problems, complete, size, condition.name)


def _reference(setup: Setup, tokenizer: Any, prompts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of the prompts that means and resampled values are taken from."""
    if setup.options.intervention.partition(":")[0] not in NEED_REFERENCE:
        return []
    if setup.options.reference is None:
        return [encode(tokenizer, prompt) for prompt in prompts[:REFERENCE_PROMPTS]]
    file = Path(setup.options.reference)
    return [p.clean_ids for p in Pairs.load(file, tokenizer if holds_text(file) else None)]


@contextmanager
def _answering(
    setup: Setup,
    named: Named,
    model: Any,
    tokenizer: Any,
    condition: Condition,
    reference: Sequence[Sequence[int]],
) -> Iterator[Complete]:
    """A function from requests to completions under a condition."""
    o, change = setup.options, condition.intervention
    added = None if change is None else constants(model, change, reference, o.seed)
    if o.backend == "hf":
        with intervened(model, change, added):

            def complete(batch: list[Request]) -> list[Completion]:
                return sample(model, tokenizer, batch, setup.sampling, o.seed)

            yield complete
        return
    with tempfile.TemporaryDirectory(prefix="headlab-baked-") as scratch:
        path = named.path
        if change is not None:
            path = f"{scratch}/model"
            fresh = load_model(named.path, o.dtype, "cpu")
            save_baked(Path(path), fresh, tokenizer, change, added)
            del fresh
        with engine(path, o.dtype, setup.sampling, o.seed) as complete:
            yield complete


def _result(
    setup: Setup,
    conditions: Sequence[Condition],
    stores: dict[str, Completions],
    intervention: Intervention | None,
) -> dict[str, Any]:
    o, size = setup.options, (len(setup.problems), setup.sampling.samples)
    scores = {c.name: score_of(stores[c.name], *size, o.k, o.seed).to_json() for c in conditions}
    found: dict[str, Any] = {}
    if intervention is not None:
        right = {c.name: stores[c.name].right(*size) for c in conditions}
        found = {name: d.to_json() for name, d in compare(right, seed=o.seed).items()}
    changed = {c.name: c.intervention for c in conditions if c.intervention is not None}
    return {
        "schema": SCHEMA,
        "task": o.task,
        "model": setup.model.path,
        "base": setup.base.path if setup.base else None,
        "step": setup.model.step,
        "think": setup.prompting.think,
        "label": o.label,
        "intervention": o.intervention,
        "heads": [] if intervention is None else [head_name(h) for h in intervention.heads],
        "changed": {name: [head_name(h) for h in i.heads] for name, i in changed.items()},
        "settings": {"sampling": vars(setup.sampling), "seed": o.seed, "backend": o.backend},
        "conditions": scores,
        "comparisons": found,
    }

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

from analysis.evaluation.asking import Complete, fill_store, requests_of, score_of
from analysis.evaluation.completions import Completions
from analysis.evaluation.sampling import Completion, Request, sample
from analysis.evaluation.scores import compare
from analysis.evaluation.setup import answer_settings
from analysis.evaluation.vllm_engine import engine
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
from analysis.models.graph import head_name
from analysis.models.loading import adapter_base, load_config, load_model, load_tokenizer
from analysis.prompts.pairs import encode
from analysis.records.checkpoints import Named

if TYPE_CHECKING:
    from analysis.evaluation.setup import Setup

log = logging.getLogger(__name__)

SCHEMA = 1
REFERENCE_PROMPTS = 64  # of the task, where no pairs file is given
AT_ONCE = 128  # answers that vLLM gets in one call


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
    conditions = conditions_of(
        setup.intervention,
        setup.graph,
        setup.options.controls,
        setup.base is not None,
        setup.options.seed,
    )
    paths = {condition.name: _store_path(setup, condition) for condition in conditions}
    opened = {path: Completions(path) for path in set(paths.values())}
    stores = {name: opened[path] for name, path in paths.items()}
    for of_base, named in ((False, setup.model), (True, setup.base)):
        if named is not None:
            _fill(setup, named, [c for c in conditions if c.of_base == of_base], stores)
    return _result(setup, conditions, stores)


def _store_path(setup: Setup, condition: Condition) -> Path:
    """Where the answers of a condition are kept; those of unchanged models may be shared."""
    shared = setup.options.unchanged
    if condition.intervention is not None or shared is None:
        return setup.out / "completions" / f"{condition.name}.jsonl"
    named = setup.base if condition.of_base else setup.model
    assert named is not None
    text = json.dumps(answer_settings(setup, named), sort_keys=True)
    name = f"{setup.task}-{short_hash(text)}.jsonl"
    return Path(shared) / name


def _fill(
    setup: Setup,
    named: Named,
    conditions: Sequence[Condition],
    stores: dict[str, Completions],
) -> None:
    """Draw what is missing of the conditions of one model, which is loaded if anything is."""
    tokenizer = load_tokenizer(named.path, named.base)
    requests = requests_of(tokenizer, setup.problems, setup.prompting, setup.sampling.samples)
    missing = [c for c in conditions if not all(stores[c.name].has(r) for r in requests)]
    if not missing:
        return
    config = load_config(named.path, named.base)
    check_room(config, tokenizer, requests, setup.sampling.max_new_tokens)
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    reference = _reference(setup, named, tokenizer, prompts)
    by_vllm = setup.options.backend == "vllm"
    model = None if by_vllm else load_model(named.path, setup.dtype, base=named.base)
    size = AT_ONCE if by_vllm else setup.sampling.batch_size
    for condition in missing:
        with _answering(setup, named, model, tokenizer, condition, reference) as complete:
            store = stores[condition.name]
            fill_store(store, requests, setup.problems, complete, size, condition.name)


def check_room(
    config: Any, tokenizer: Any, requests: Sequence[Request], max_new_tokens: int
) -> None:
    """Say that answers may go beyond a model's context.

    Raises:
        ValueError: the model has learned its positions, so that it has none beyond.
    """
    limit = getattr(config, "max_position_embeddings", None)
    longest = max(len(encode(tokenizer, r.prompt)) for r in requests)
    if limit is None or longest + max_new_tokens <= limit:
        return
    what = f"prompts of up to {longest} tokens and max_new_tokens={max_new_tokens}"
    if str(config.model_type) == "gpt2":
        raise ValueError(
            f"{what} do not fit the model, which has positions for {limit} tokens; give "
            f"max_new_tokens={max(1, limit - longest)}"
        )
    log.warning("%s go beyond the %d tokens that the model was trained on", what, limit)


def _reference(
    setup: Setup, named: Named, tokenizer: Any, prompts: Sequence[str]
) -> list[tuple[int, ...]]:
    """Token ids of the prompts that means and resampled values are taken from."""
    if setup.intervention is None or setup.intervention.operation not in NEED_REFERENCE:
        return []
    if setup.options.reference is None:
        return [encode(tokenizer, prompt) for prompt in prompts[:REFERENCE_PROMPTS]]
    config = load_config(named.path, named.base)
    return read_reference(Path(setup.options.reference), tokenizer, config)


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
    if o.backend == "hf":
        added = None if change is None else constants(model, change, reference, o.seed)
        with intervened(model, change, added):

            def complete(batch: list[Request]) -> list[Completion]:
                return sample(model, tokenizer, batch, setup.sampling, o.seed)

            yield complete
        return
    with tempfile.TemporaryDirectory(prefix="headlab-baked-") as scratch:
        path = named.path
        if change is not None or adapter_base(path):  # the engine takes whole checkpoints
            # on the CPU: the GPU's memory is the engine's
            fresh = load_model(named.path, setup.dtype, "cpu", named.base)
            added = None if change is None else constants(fresh, change, reference, o.seed)
            path = f"{scratch}/model"
            save_baked(Path(path), fresh, tokenizer, change, added)
            del fresh
        dtype = setup.dtype or str(load_config(named.path, named.base).dtype).removeprefix("torch.")
        with engine(path, dtype, setup.sampling, o.seed) as complete:
            yield complete


def _result(
    setup: Setup, conditions: Sequence[Condition], stores: dict[str, Completions]
) -> dict[str, Any]:
    o, size = setup.options, (len(setup.problems), setup.sampling.samples)
    scores = {
        c.name: score_of(stores[c.name], *size, setup.ks, o.seed).to_json() for c in conditions
    }
    found: dict[str, Any] = {}
    if setup.intervention is not None:
        right = {c.name: stores[c.name].right(*size) for c in conditions}
        found = {name: d.to_json() for name, d in compare(right, seed=o.seed).items()}
    changed = {c.name: c.intervention for c in conditions if c.intervention is not None}
    names = {name: [head_name(h) for h in change.heads] for name, change in changed.items()}
    return {
        "schema": SCHEMA,
        "task": o.task,
        "model": setup.model.path,
        "base": setup.base.path if setup.base else None,
        "step": setup.model.step,
        "think": setup.prompting.think,
        "label": o.label,
        "intervention": o.intervention,
        "heads": names.get("intervention", []),
        "changed": names,
        "settings": {"sampling": vars(setup.sampling), "seed": o.seed, "backend": o.backend},
        "conditions": scores,
        "comparisons": found,
    }

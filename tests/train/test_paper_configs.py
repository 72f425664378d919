"""The files of the paper's experiments, and what debug=tiny may change of them."""

from __future__ import annotations

import re

import pytest

from tests.support.paper import EXPERIMENTS, PAPER

# Everything that debug=tiny may change, by what it is.
MODELS = {"model.path", "model.recipe", "model.seed", "study.models"}
DATA = {
    *("data.source", "data.options", "data.messages_column"),
    *("pairs.source", "study.pairs", "study.tasks"),
}
SIZES = {
    *("data.size", "pairs.size", "tracking.top_n", "tracking.ig_steps", "tracking.resamples"),
    *("train.args.max_steps", "train.args.save_steps", "train.args.logging_steps"),
    *("train.args.per_device_train_batch_size", "train.args.gradient_accumulation_steps"),
    *("train.args.max_length", "train.args.max_completion_length", "study.heads"),
    *(f"study.defaults.evaluate.{name}" for name in ("size", "n", "k", "controls")),
    "study.defaults.evaluate.max_new_tokens",
}
ON_A_CPU = {"train.args.bf16", "study.defaults.evaluate.backend"}
APART = {"run_dir"}


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Leaves by dotted key."""
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


@pytest.mark.parametrize(("name", "kind"), EXPERIMENTS)
def test_debug_tiny_replaces_models_data_and_sizes_and_nothing_else(compose, name, kind):
    from train.config import plain

    full = flat(plain(compose(kind, f"experiment=paper/{name}")))
    small = flat(plain(compose(kind, f"experiment=paper/{name}", "debug=tiny")))
    changed = {key for key in full.keys() | small.keys() if full.get(key) != small.get(key)}
    # what steps and pairs of a study take from elsewhere is compared where it comes from
    allowed = MODELS | DATA | SIZES | ON_A_CPU | APART
    unexpected = {
        key for key in changed if not any(key == a or key.startswith(f"{a}.") for a in allowed)
    }
    followers = {
        key
        for key in unexpected
        if (found := re.fullmatch(r"study\.steps\.\w+[\w.-]*\.options\.(.*)", key))
        and (found[1] in ("source", "size") or found[1] == "intervention")
    }
    assert unexpected == followers
    assert {"model.recipe", "pairs.source", "tracking.top_n", "run_dir"} <= changed
    assert small["run_dir"] == f"runs-tiny/{small['name']}" != full["run_dir"]


@pytest.mark.parametrize(("name", "kind"), EXPERIMENTS)
def test_each_begins_with_its_command(name, kind):
    lines = (PAPER / name / f"{kind}.yaml").read_text().splitlines()
    assert lines[:2] == [
        "# @package _global_",
        f"# to execute: headlab {kind} experiment=paper/{name}",
    ]

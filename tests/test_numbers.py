"""Every numeric key has a range, and a number outside it is one line that names the key."""

from __future__ import annotations

import math
import re
from importlib import import_module

import pytest

from analysis.cli import REQUIRED, parse
from analysis.commands import COMMANDS, command_module
from analysis.ranges import Range, check_number, declared
from train.config import check, plain
from train.schema import Config, StudyConfig

VALUES = ("0", "-1", "nan", "inf", "-inf")
OTHERS = ("launch.sidecar", "launch.bench.runs", "train.recipes.command")
SCHEMAS = {name: command_module(name).Options for name in COMMANDS} | {
    name: import_module(name).Options for name in OTHERS
}


def numeric(schema: type) -> dict[str, Range | None]:
    """The keys of a schema that take a number, with their ranges."""
    return {
        name: entry.metadata.get("range")
        for name, entry in declared(schema)
        if re.search(r"\b(int|float)\b", str(entry.type))
    }


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), Config, StudyConfig])
def test_every_numeric_key_has_a_range(schema):
    assert [name for name, allowed in numeric(schema).items() if allowed is None] == []


@pytest.mark.parametrize("command", SCHEMAS)
def test_a_command_refuses_what_lies_outside(command):
    schema = SCHEMAS[command]
    needed = {name: "x" for name, entry in declared(schema) if entry.default == REQUIRED}
    needed |= {"name": "smollm2"} if command == "train.recipes.command" else {}
    if command == "track":  # checkpoints or a directory to watch, and what goes with them
        needed |= dict.fromkeys(("checkpoints", "base", "pairs"), "x")
    needed |= {"seeds": "x", "match": "kl"} if command == "compare" else {}  # `at` is for them
    for name, allowed in numeric(schema).items():
        assert allowed is not None
        for value in VALUES:
            words = [f"{key}={text}" for key, text in {**needed, name: value}.items()]
            number = float(value)
            if math.isfinite(number) and allowed.holds(number):
                parse(schema, words)
                continue
            with pytest.raises(ValueError, match=re.escape(name)) as refused:
                parse(schema, words)
            assert "\n" not in str(refused.value)


def test_a_training_refuses_what_lies_outside(compose, tmp_path):
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    cfg = compose("sft", f"run_dir={tmp_path}/r")
    check(cfg)
    for name, allowed in numeric(Config).items():
        assert allowed is not None
        for value in map(float, VALUES):
            now = cfg.copy()
            try:
                OmegaConf.update(now, name, int(value) if math.isfinite(value) else value)
            except OmegaConfBaseException:  # nan for an integer: refused when it is composed
                continue
            if math.isfinite(value) and allowed.holds(value):
                continue
            with pytest.raises(ValueError, match=re.escape(name)):
                check(now)
    assert plain(cfg)["seed"] == 0


@pytest.mark.parametrize(
    "word",
    [
        *("data.options.terms=nan", "peft.args.lora_alpha=inf", "evaluation.options.x=-inf"),
        *("train.args.learning_rate=nan", "train.args.adam_beta1=inf", "pairs.options.a={b: nan}"),
    ],
)
def test_a_number_that_is_none_is_refused_in_open_maps_too(compose, tmp_path, word):
    key = word.partition("=")[0]
    with pytest.raises(ValueError, match=f"{key}.* must be a finite number"):
        check(compose("sft", f"run_dir={tmp_path}/r", word))


@pytest.mark.parametrize("word", ["study.heads=0", "study.models.post.seed=-1"])
def test_the_numbers_of_a_study_have_ranges_too(compose, word):
    cfg = compose("study", "experiment=paper/distilled", word)
    with pytest.raises(ValueError, match=re.escape(word.partition("=")[0])):
        check(cfg)


def test_ranges_say_what_they_hold():
    said = [Range(1), Range(0, 1, "()"), Range(0, ends="(]"), Range(1, also=(-1,)), Range()]
    assert [f"must {allowed}" for allowed in said] == [
        *(
            "must be at least 1",
            "must lie in (0, 1)",
            "must be above 0",
            "must be at least 1 or -1",
        ),
        "must be a number",
    ]
    check_number("a", True)
    check_number("a", [1, {"b": "nan"}], Range(1))
    with pytest.raises(ValueError, match=r"a\[1\]\.b must be at least 1, not 0"):
        check_number("a", [1, {"b": 0}], Range(1))

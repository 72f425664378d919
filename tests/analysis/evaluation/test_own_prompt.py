"""A checkpoint is asked as its run asks, unless it is told otherwise."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from analysis.cli import parse
from analysis.commands.evaluate import far_below_held_out
from analysis.evaluation.parts import Questions
from analysis.evaluation.setup import Options, prepare
from analysis.prompts.benchmarks import SUFFIX
from analysis.prompts.chat import Prompting
from analysis.records.checkpoints import Named
from analysis.records.evaluations import write_evaluation
from analysis.records.run_file import RunFile
from analysis.records.run_prompting import prompting_for

OWN = Prompting("Be brief.", " Answer.", {"a": 1}, "off", day="2026-01-02")
TOLD = {**asdict(OWN), "suffixes": {"gsm8k": SUFFIX}, "template": "x"}


@pytest.fixture
def model(tmp_path):
    RunFile("r", "sft", prompting=TOLD).write(tmp_path)
    return Named("base", tmp_path, 7)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"task": "jsonl:f.jsonl", "default_suffix": SUFFIX}, OWN),
        ({"task": "math500", "default_suffix": SUFFIX}, OWN),
        # as the run itself is evaluated on it
        ({"task": "gsm8k"}, Prompting("Be brief.", SUFFIX, {"a": 1}, "off", day="2026-01-02")),
        (
            {"system_prompt": "", "suffix": "", "think": "on"},
            Prompting("", "", {"a": 1}, "on", day="2026-01-02"),
        ),
    ],
)
def test_a_checkpoint_is_asked_as_its_run_asks(model, given, expected):
    assert prompting_for(model, **given) == expected


def test_other_models_and_older_runs(tmp_path):
    RunFile("r", "sft").write(tmp_path)
    for model in (Named("base"), Named("base", tmp_path, 7), Named("base", tmp_path / "no", 7)):
        assert prompting_for(model, default_suffix=SUFFIX) == Prompting(suffix=SUFFIX)


def test_the_command_asks_so(copier, tmp_path):
    RunFile("r", "sft", prompting={**TOLD, "template_options": {}}).write(tmp_path)
    (tmp_path / "checkpoint-7").symlink_to(copier)
    words = [f"model={tmp_path}@7", f"task=jsonl:{copier}/task.jsonl", "prefix=So"]
    found = prepare(parse(Options, words)).questions
    assert found.prompting == Prompting(
        "Be brief.", " Answer.", think="off", prefix="So", day="2026-01-02"
    )
    assert found.slug == "task"


def test_a_score_far_below_the_runs_own_is_remarked_on(model):
    write_evaluation(model.run, 7, {"pass_at_1": 0.73, "low": 0.6, "high": 0.8})

    def remark(prompting, high=0.02):
        questions = Questions("t", "t", [], prompting)
        return far_below_held_out(model, {"pass_at_1": 0.005, "high": high}, questions)

    other = remark(Prompting("Be brief.", SUFFIX, think="off"))
    assert other is not None and "\n" not in other
    assert "0.5 % is far below the 73.0 % of the run's own held-out problems at step 7" in other
    assert "asked otherwise (suffix='\\nLet's" in other.replace('"', "'")
    assert str(remark(OWN)).endswith("this is another task")
    for high in (0.3, float("nan"), None):
        assert remark(OWN, high) is None
    assert far_below_held_out(Named("b", model.run, 8), {"high": 0.0}, None) is None

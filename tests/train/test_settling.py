"""Words of a command line mean the same in every order, place and program: ~, ${, options."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from analysis.cli import key, parse, read_value
from tests.support.runs import small
from train.config import load_resolved, plain
from train.entry import start
from train.overrides import sort_words

DOLLARS = ["costs ${5", "${seed} of ${name}", "a\\${b}", "\\\\${c}", "$", "${}"]


@pytest.mark.parametrize("text", DOLLARS)
def test_text_with_a_dollar_is_handed_on_as_it_is(compose, tmp_path, text):
    """From the launcher's file to its processes, and to the sidecar."""
    values = plain(compose("sft"))
    values["data"]["suffix"] = text
    values["train"]["args"]["eos_token"] = [text]
    file = tmp_path / "launch.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    again = plain(load_resolved(file))
    assert again == values


def test_an_escaped_reference_is_text(compose):
    assert compose("sft", r"data.suffix='it costs \${5} now'").data.suffix == "it costs ${5} now"


@pytest.mark.parametrize("text", DOLLARS)
def test_a_command_and_a_step_of_a_study_take_it_too(text):
    from analysis.commands.pairs import Options
    from launch.steps import Step

    step = Step("s", "think", {"model": "m", "out": "o", "suffix": text})
    assert step.parse({}).suffix == text
    assert parse(Options, ["model=m", "out=o", f"suffix={text}x"]).suffix == f"{text}x"
    assert read_value("[1,a]") == [1, "a"]


def test_home_is_the_users_directory_in_every_place(compose):
    home = str(Path.home())
    places = ["run_dir=~/r", "model=hub", "model.path=~/m", "data=file", "data.source=jsonl:~/d"]
    places += ["evaluation.source=jsonl:~/e", "pairs.source=jsonl:~/p", "pairs.path=~/q"]
    cfg = compose("sft", *places, "evaluation.tasks=[aime24,jsonl:~/t]", "data.suffix='~/s'")
    assert (cfg.run_dir, cfg.model.path, cfg.data.source) == (
        f"{home}/r",
        f"{home}/m",
        f"jsonl:{home}/d",
    )
    assert (cfg.evaluation.source, cfg.pairs.source) == (f"jsonl:{home}/e", f"jsonl:{home}/p")
    assert list(cfg.evaluation.tasks) == ["aime24", f"jsonl:{home}/t"]
    assert (cfg.pairs.path, cfg.data.suffix) == (f"{home}/q", "~/s")
    words = ["study.models.post.path=~/m", "model.path='~/n'", "study.tasks=['jsonl:~/t']"]
    study = compose("study", "experiment=paper/distilled", *words)
    assert (study.study.models.post.path, study.model.path) == (f"{home}/m", f"{home}/n")
    assert list(study.study.tasks) == [f"jsonl:{home}/t"]


def test_home_is_that_in_every_command():
    from analysis.commands import compare, evaluate, report, track

    home = str(Path.home())
    found = parse(track.Options, ["run=~/r", "checkpoints=[~/a,b]", "base=~/b", "pairs=~/p"])
    assert (found.run, found.base, found.pairs) == (f"{home}/r", f"{home}/b", f"{home}/p")
    assert found.checkpoints == [f"{home}/a", "b"]
    words = ["model=~/r@last", "task=jsonl:~/t", "intervention=zero:~/r@1:emergent:2", "prefix=~/x"]
    asked = parse(evaluate.Options, words)
    assert (asked.model, asked.task) == (f"{home}/r@last", f"jsonl:{home}/t")
    assert (asked.intervention, asked.prefix) == (f"zero:{home}/r@1:emergent:2", "~/x")
    assert parse(compare.Options, ["a=~/a", "b=b"]).a == f"{home}/a"
    assert parse(report.Options, ["runs=[~/a]"]).runs == [f"{home}/a"]


def test_a_file_of_deepspeed_becomes_its_configuration(compose, tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, "gradient_clipping": 1e-05}))
    cfg = compose("sft", f"train.args.deepspeed={file}")
    assert plain(cfg)["deepspeed"]["config"] == {
        "zero_optimization": {"stage": 2},
        "gradient_clipping": 1e-05,
    }
    assert "deepspeed" not in cfg.train.args
    with pytest.raises(ValueError, match="no.json can't be read: .*No such file"):
        compose("sft", "train.args.deepspeed=no.json")
    with pytest.raises(ValueError, match="and deepspeed=... are given; leave out one"):
        compose("sft", f"train.args.deepspeed={file}", "deepspeed=zero1")


COMMANDS = {"sft": "sft", "grpo": "grpo", "launch": None, "study": "study"}
KEYS = {"study": ["experiment=paper/distilled"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_hydras_options_may_stand_before_overrides(command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["headlab"])
    keys, options = [*KEYS.get(command, []), "seed=5"], ["--cfg", "job", "--resolve"]
    assert sort_words([*options, *keys]) == sort_words([*keys, *options]) == (keys, options)
    start(COMMANDS[command], pytest.fail, "", [*options, *keys])
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 5


def test_the_last_step_is_tracked_once_where_epochs_are_saved(
    compose, tiny_dir, tmp_path, monkeypatch
):
    from analysis.records.record_files import recorded_steps
    from analysis.tracking.tracker import HeadTracker
    from train.checkpoints import checkpoints
    from train.run import prepare, run

    tracked: list[int] = []
    original = HeadTracker.track

    def counted(self: HeadTracker, model: Any, step: int, show_progress: bool = True) -> Any:
        tracked.append(step)
        return original(self, model, step, show_progress)

    monkeypatch.setattr(HeadTracker, "track", counted)
    more = ["evaluation=none", "data.size=8", "train.args.save_strategy=epoch", "pairs.size=2"]
    words = small("sft", tiny_dir, tmp_path / "r", *more, "tracking.schedule=every:2")
    run(prepare(compose("sft", *words)))
    assert tracked == [0, 2, 4] == recorded_steps(tmp_path / "r" / "heads")
    assert [path.name for path in checkpoints(tmp_path / "r")] == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize(
    ("every", "cycle", "warned"), [(2, 1, False), (4, 2, False), (3, 2, True), (500, 3, True)]
)
def test_only_a_checkpoint_within_a_cycle_is_warned_of(every, cycle, warned, caplog):
    """`every` is in steps, as the trainer's state has it; a share has been turned into them."""
    from train.keeper import warn_of_cycles

    args: Any = SimpleNamespace(save_strategy="steps")
    with caplog.at_level(logging.WARNING):
        warn_of_cycles(args, every, cycle)
        warn_of_cycles(SimpleNamespace(save_strategy="epoch"), every, cycle)  # type: ignore[arg-type]
    assert bool(re.search("not one every whole generation cycle", caplog.text)) == warned


def test_prose_is_text_and_all_else_may_be_a_place():
    from dataclasses import dataclass

    @dataclass
    class Options:
        said: str = key("text", "", prose=True)
        out: str = key("a place", "")

    found = parse(Options, ["said=~/a", "out=~/a"])
    assert (found.said, found.out) == ("~/a", f"{Path.home()}/a")

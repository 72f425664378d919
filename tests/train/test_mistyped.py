"""A mistyped word of a Hydra command line is one line that names the nearest right one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.train.test_config import run_cli
from train.entry import PointFailed, compose, start
from train.overrides import WITH_VALUE, WITHOUT_VALUE, sort_words

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def begin(capsys, monkeypatch, tmp_path) -> Run:
    """Run a command line whose action does nothing else than it is given: status and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["headlab"])

    def begun(
        *words: str, kind: str | None = "sft", action: Callable[[Any], None] = lambda cfg: None
    ) -> tuple[int, str]:
        try:
            start(kind, action, "", list(words))
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return begun


MISTYPED = [
    (["sede=1"], "unknown key 'sede'; did you mean seed?"),
    (["tracking.methd=x"], "unknown key 'tracking.methd'; did you mean tracking.method?"),
    (["trackin.method=x"], "unknown key 'trackin.method'; did you mean tracking.method?"),
    (["methd=x"], "unknown key 'methd'; did you mean peft.method or tracking.method?"),
    (["learning_rte=1"], "unknown key 'learning_rte'; did you mean train.args.learning_rate?"),
    (["+sede=1"], "unknown key 'sede'; did you mean seed?"),
    (["+tracking.methd=1"], "unknown key 'tracking.methd'; did you mean tracking.method?"),
    (["qqqq=1"], "unknown key 'qqqq'; every key stands in conf/, see --help"),
    (["hydra.jib=1"], "unknown key 'hydra.jib'; those of Hydra: --cfg hydra"),
    (["trackin=paper"], "unknown key 'trackin'; did you mean tracking?"),
    (["deepspeed=zero9"], "deepspeed has no option 'zero9'; did you mean zero3?"),
    (["debug=fst"], "debug has no option 'fst'; did you mean fast?"),
    (["experiment=tny"], "no experiment 'tny'; did you mean tiny?"),
    (["experiment=tiny/sftt"], "no experiment 'tiny/sftt'; did you mean tiny?"),
    (["experiment=paper/gsm8k"], "experiment 'paper/gsm8k' is there for grpo, not for sft"),
    (["seed=abc"], "seed: Value 'abc' of type 'str' could not be converted to Integer"),
    (
        ["tracking.resamples=null"],
        "tracking.resamples: field 'tracking.resamples' is not Optional",
    ),
    (["name=${nothing}"], "name: Interpolation key 'nothing' not found"),
    (["seed=0,1"], "seed=0,1 is several values; for a sweep add --multirun, for a list write"),
    (["x={"], "'x={' can't be read: "),
    (["study.tasks=[a]"], "a key lies below a part that is null here"),
    (["tiny"], "'tiny' is not key=value"),
    (["--mulitrun"], "no option --mulitrun; did you mean --multirun?"),
    (["--cfg", "jbo"], "--cfg shows one of job, hydra, all, not 'jbo'"),
    (["--multirun", "--cfg", "job"], "Only one of --run, --multirun, --cfg"),
    (["--multirun", "seed=0,1", "sede=1"], "unknown key 'sede'; did you mean seed?"),
    (["--multirun", "experiment=tiny,tny"], "no experiment 'tny'; did you mean tiny?"),
]


@pytest.mark.parametrize(("words", "message"), MISTYPED, ids=lambda value: str(value)[:40])
def test_a_mistyped_word_is_one_line(begin, words, message):
    status, error = begin(*words)
    assert (status, error.count("\n")) == (2, 1), error
    assert error.startswith(f"error: {message}")


def test_the_kind_of_a_launch_is_that_of_its_trainer(begin):
    assert "is there for grpo, not for sft" in begin("experiment=paper/gsm8k", kind=None)[1]
    assert begin("train=grpo", "experiment=paper/gsm8k", kind=None) == (0, "")
    assert "train has no option 'sftt'; did you mean sft?" in begin("train=sftt", kind=None)[1]


def test_hydras_options_may_stand_before_overrides(begin):
    seeds: list[int] = []
    words = ("--multirun", "seed=3,4")
    assert begin(*words, action=lambda cfg: seeds.append(cfg.seed)) == (0, "")
    assert seeds == [3, 4]
    assert sort_words(["--cfg", "job", "a=1", "-p=x=y", "--info", "~b", "-m"]) == (
        ["a=1", "~b"],
        ["--cfg", "job", "-p=x=y", "--info", "-m"],
    )


def test_hydras_options_are_known():
    from hydra._internal.utils import get_args_parser

    actions = [action for action in get_args_parser()._actions if action.option_strings]
    hydras = {name: action.nargs for action in actions for name in action.option_strings}
    for name in ("--help", "-h", "--version"):
        del hydras[name]
    assert {name for name, nargs in hydras.items() if nargs != 0} == set(WITH_VALUE)
    assert {name for name, nargs in hydras.items() if nargs == 0} == set(WITHOUT_VALUE)


def test_what_the_action_raises_is_not_taken_for_a_mistake(begin):
    def fails(cfg: Any) -> None:
        raise ValueError("a fault of the program")

    with pytest.raises(ValueError, match="a fault of the program"):
        begin(action=fails)

    def point(cfg: Any) -> None:
        raise PointFailed("a: it ended with status 3")

    status, error = begin("--multirun", "seed=0,1", action=point)
    assert (status, error.splitlines()[-1]) == (1, "a: it ended with status 3")


def test_hydras_own_message_is_to_be_had(begin, monkeypatch):
    from hydra.errors import ConfigCompositionException

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigCompositionException, match="Could not override 'sede'"):
        begin("sede=1")


def test_a_configuration_for_another_program_is_checked_too():
    with pytest.raises(ValueError, match=re.escape("unknown key 'sede'; did you mean seed?")):
        compose("sft", ["sede=1"])
    with pytest.raises(ValueError, match=re.escape("unknown key 'sede'; did you mean seed?")):
        compose("sft", ["+sede=1"])


@pytest.mark.parametrize("command", [["train.sft"], ["launch", "train=sft"], ["launch", "study"]])
def test_as_users_run_it(command, tmp_path):
    done = run_cli(*command, "sede=1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key 'sede'; did you mean seed?\n"

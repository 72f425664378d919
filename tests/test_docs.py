"""README, CONTRIBUTING and docs/: what they name is there, and what they tell to type works.

A command stands in a block marked `sh`, or as code in a sentence or a table. Those of training are
composed by Hydra as on a command line, down to the arguments of TRL; the others are parsed by the
options of their command. Output stands in blocks marked `text`. docs/LOG.md is history: its
commands are those of its day.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

import headlab
from analysis.cli import REQUIRED, keys, parse
from analysis.commands import COMMANDS, as_keys, command_module
from tests.support.hung import plain_trainer
from tests.support.places import ROOT
from train.config import RECIPES

PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "LOG.md"),
]
FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OTHERS = ("wandb", "vllm", "pip", "pre-commit", ".")  # programs that are not of this project
TRAINERS = ("sft", "grpo")
NAMED = re.compile(r"\.?(analysis|ci|conf|docs|github|launch|tests|train)/([\w./-]+(/|\.\w+))?")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def lines(shell: str) -> Iterator[str]:
    """The commands of a block: continued lines joined, `$(command)` as a command of its own."""
    for line in shell.replace("\\\n", " ").splitlines():
        inner = re.search(r"\$\((.*?)\)", line)
        if inner:
            yield inner[1]
            line = line.replace(inner[0], "DIR")
        line = re.sub(r"^(\w+=\S* +)+", "", line)  # variables for the command
        if line.strip() and not re.fullmatch(r"\s*#.*|\w+=\S*", line):
            yield line


def found_commands() -> list[str]:
    found = []
    for page in PAGES:
        found += [
            line for language, text in blocks(page) if language == "sh" for line in lines(text)
        ]
        codes = CODE.findall(prose(page))
        found += [code for code in codes if re.match(r"(headlab|make|python -m) \S", code)]
    return sorted({" ".join(re.sub(r"\s# .*", "", line).split()) for line in found})


def fragments(page: Path) -> Iterator[str]:
    """Options without their command.

    In a table, what follows without a key is another value: `deepspeed=zero1`, `zero2`.
    """
    for line in prose(page).splitlines():
        key = None
        for code in CODE.findall(line):
            if re.match(r"'?[a-z_.0-9]+=\S", code):
                key = code.partition("=")[0]
                yield code
            elif key and line.startswith("|"):
                yield f"{key}={code}"


FRAGMENTS = sorted({code for page in PAGES for code in fragments(page)} - {"key=value"})


def check_training(compose: Any, kind: str, words: list[str]) -> None:
    """Compose a configuration and build TRL's, PEFT's and the tracker's arguments of it.

    Raises:
        Exception: a key, a value, a group or an argument is not there.
    """
    from train.build import peft_config, tracking_settings, training_args
    from train.config import check, plain
    from train.rewards import find_rewards
    from train.sharding import check_config

    cfg = compose(kind, *words, "resume=auto")
    check(cfg)
    if cfg.deepspeed.config is not None:
        check_config(plain(cfg.deepspeed)["config"])
        cfg.deepspeed.config = None  # TRL's arguments would set it up for this whole process
    training_args(cfg)
    peft_config(cfg)
    tracking_settings(cfg)
    if kind == "grpo":
        find_rewards(list(cfg.train.rewards))


def points(words: list[str]) -> list[list[str]]:
    """The runs of a sweep, its first and its last value of each key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from train.entry import expand_overrides

    swept = [word for word in words if not word.startswith(("hydra/launcher", "hydra.launcher"))]
    parser = OverridesParser.create()
    ends: list[list[str]] = [[], []]
    for word in swept:
        override = parser.parse_override(expand_overrides([word], "study")[0])
        values = [word.partition("=")[2]]
        if override.is_sweep_override():
            values = list(override.sweep_string_iterator())
        ends[0].append(f"{word.partition('=')[0]}={values[0]}")
        ends[1].append(f"{word.partition('=')[0]}={values[-1]}")
    return ends


def check_launch(compose: Any, words: list[str]) -> None:
    if words[0] in ("sidecar", "study"):
        check_headlab(compose, words)
    elif words[0] == "bench":
        from launch.bench.command import chosen
        from launch.bench.runs import Options

        chosen(parse(Options, words[1:]))
    else:
        kinds = [word.partition("=")[2] for word in words if word.startswith("train=")]
        rest = [word for word in words if not word.startswith("train=")]
        sweep = "--multirun" in rest
        rest = [word for word in rest if word != "--multirun"]
        for kind in kinds or ["sft"]:
            for point in points(rest) if sweep else [rest]:
                check_training(compose, kind, point)


def check_study(compose: Any, words: list[str]) -> None:
    from launch.steps import steps_of
    from launch.study import planned_places

    cfg = compose("study", *words)
    for step in steps_of(cfg):
        step.parse(planned_places(cfg))


def check_headlab(compose: Any, words: list[str]) -> None:
    """Raises if a command line of headlab would not be understood."""
    command, *rest = words
    if rest == ["--help"] or not rest:
        assert command in {*headlab.TRAINING, *COMMANDS, "COMMAND"}, command
    elif command == "recipe":
        from train.recipes.command import Options as RecipeOptions

        assert parse(RecipeOptions, rest).name in RECIPES, rest
    elif command in COMMANDS:
        module = command_module(command)
        parse(module.Options, as_keys(module, rest))
    elif command in TRAINERS:
        check_training(compose, command, [word for word in rest if word != "--cfg"])
    elif command == "launch":
        check_launch(compose, rest)
    elif command == "demo":
        for kind in TRAINERS:
            check_training(compose, kind, rest)
    elif command == "study":
        check_study(compose, rest)
    elif command == "sidecar":
        from launch.sidecar import Options

        parse(Options, rest)
    else:
        raise ValueError(f"headlab has no command {command}")


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_command(compose: Any, line: str) -> None:
    """Raises if a line of a page could not be typed."""
    words = shlex.split(line, comments=True)
    if words[0] == "headlab":
        if words[1:]:
            check_headlab(compose, words[1:])
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words[2]
        if words[2] in ("headlab", "analysis"):
            check_headlab(compose, words[3:])
    elif words[0] == "make":
        assert set(words[1:]) <= make_targets(), words
    else:
        assert words[0] in OTHERS, f"{words[0]} is no command of this project"


def known_to_a_command(words: list[str]) -> bool:
    """Whether some command of analysis takes these options."""
    for command in COMMANDS:
        schema = command_module(command).Options
        given = {word.partition("=")[0] for word in words}
        needed = [name for name, default, _ in keys(schema) if default == REQUIRED]
        try:
            parse(schema, [*words, *(f"{name}=X" for name in needed if name not in given)])
        except ValueError:
            continue
        return True
    return False


def check_fragment(compose: Any, words: list[str]) -> None:
    """Raises unless a training run, a command of analysis or `attribute` takes these options."""
    parameters = {  # of Python: what pages call with keywords
        name
        for called in (headlab.attribute, headlab.HeadTracking, TrainingArguments)
        for name in inspect.signature(called).parameters
    }
    if known_to_a_command(words) or all(word.partition("=")[0] in parameters for word in words):
        return
    if words == ["debug=tiny"]:  # it is for the experiments of the paper
        words = ["experiment=paper/openr1", *words]
    try:
        check_training(compose, "sft", words)
    except Exception:
        check_training(compose, "grpo", words)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the pages call FILE, and OUTPUT, where a trainer has a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    (tmp_path / "OUTPUT").mkdir()
    (tmp_path / "OUTPUT" / "base.json").touch()
    return tmp_path


@pytest.mark.parametrize("line", found_commands())
def test_every_command_can_be_typed(compose, place, line):
    check_command(compose, line)


@pytest.mark.parametrize("code", FRAGMENTS)
def test_every_option_is_one(compose, place, code):
    check_fragment(compose, shlex.split(code))


@pytest.mark.parametrize(
    "line",
    [
        "headlab sft experiment=tny",
        "headlab sft experiment=tiny tracking.fractoin=0.1",
        "headlab grpo experiment=tiny train.args.num_generation=16",
        "headlab launch --multirun train=sft experiment=tiny sed=0,1",
        "headlab launch --multirun train=sft experiment=tiny,nosuch",
        "headlab launch bench shpe=tiny",
        "headlab study experiment=paper/think study.defaults.evaluate.m=16",
        "headlab study experiment=tiny",
        "headlab sidecar runs=DIR",
        "headlab report DIR",
        "headlab evaluate model=DIR",
        "headlab recipe name=nosuch",
        "headlab nosuch",
        "make nosuch",
        "python -m nosuch",
        "python -m analysis attribute model=DIR",
        "healdab sft",
    ],
)
def test_a_wrong_command_would_be_found(compose, place, line):
    with pytest.raises(Exception):  # noqa: B017  Hydra, this project and assert each have their own
        check_command(compose, line)


@pytest.mark.parametrize("code", ["peft=lor", "train.args.nosuch=1", "tracking.nosuch=1", "n=x"])
def test_a_wrong_option_would_be_found(compose, place, code):
    with pytest.raises(Exception):  # noqa: B017
        check_fragment(compose, [code])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page):
    assert {language for language, _ in blocks(page)} <= {"sh", "text", "python", "json"}
    for language, text in blocks(page):
        if language == "json":
            assert [json.loads(line) for line in text.splitlines()]


def anchors(page: Path) -> set[str]:
    """The targets of links to headings, as the page's host makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page):
    for code in CODE.findall(prose(page)):
        if NAMED.fullmatch(code):
            assert (ROOT / code).exists() or (page.parent / code).exists(), code


def seams() -> list[tuple[str, str]]:
    """Names and files of the table of seams."""
    rows = [row.split("|") for row in prose(ROOT / "docs" / "architecture.md").splitlines()]
    return [
        (name.partition("(")[0].rpartition(".")[2], CODE.findall(row[3])[0])
        for row in rows
        if len(row) == 5 and CODE.findall(row[3])
        for name in CODE.findall(row[2])
    ]


@pytest.mark.parametrize(("name", "home"), seams())
def test_every_seam_is_where_it_is_said_to_be(name, home):
    place = ROOT / home
    files = [place] if place.is_file() else sorted(place.glob("*.py"))
    defined = re.compile(rf"^ *(def|class) {name}\b|^{name} = ", re.MULTILINE)
    assert any(defined.search(path.read_text(encoding="utf-8")) for path in files)


def test_the_readme_is_short_and_lines_fit():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            assert len(line) <= 100, f"{page.name}:{number}"


PYTHON = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(blocks(page))
    if language == "python"
]


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the blocks call DIR and pairs.jsonl."""
    from analysis.commands import run
    from train.recipes.tiny import build_random

    place = tmp_path_factory.mktemp("docs")
    build_random(place / "DIR", seed=0)
    run("pairs", [f"model={place / 'DIR'}", "size=4", f"out={place / 'pairs.jsonl'}"])
    return place


@pytest.mark.parametrize("text", PYTHON)
def test_every_python_block_runs(tiny_files, monkeypatch, text):
    """Some are about a trainer that the reader has."""
    monkeypatch.chdir(tiny_files)
    names = {"trainer": plain_trainer(Path("DIR"), Path("OUT"))} if "trainer." in text else {}
    exec(compile(text, "block", "exec"), names)


def test_the_words_of_the_report_are_those_of_its_page():
    from analysis.reporting.dashboard.terms import TERMS

    said = " ".join((ROOT / "docs" / "report.md").read_text(encoding="utf-8").split())
    said = said.replace("`", "")
    assert [term for term, text in TERMS.items() if f"- **{term}**: {text}" not in said] == []

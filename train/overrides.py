"""The words of a Hydra command line: overrides in our shorthand, and Hydra's own options.

Two things are added to Hydra's overrides. `experiment=NAME` means `NAME/sft`, `NAME/grpo` or, for a
study, `NAME/study` where conf/experiment/NAME is a directory; so does `debug=NAME`. And a key below
an open map (`train.args.*` and the others of OPEN_MAPS) needs no `+`; it is checked by name against
the class that it is handed to.
"""

from __future__ import annotations

import re
from pathlib import Path

from analysis.cli import nearest

CONF = Path(__file__).parent.parent / "conf"
OPEN_MAPS = (
    *("train.args", "peft.args", "deepspeed.config"),
    *("data.options", "evaluation.options", "pairs.options"),
    *("study.models", "study.pairs", "study.needs", "study.defaults", "study.steps"),
)
WITH_VALUE = (  # Hydra's options that take the word after them
    *("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
)
WITHOUT_VALUE = (
    *("--multirun", "-m", "--resolve", "--run", "-r", "--hydra-help"),
    *("--shell-completion", "-sc"),
)
PLACES = ("run_dir", "path", "source", "tasks", "deepspeed")  # last parts of keys
SHOWN = ("job", "hydra", "all")  # what --cfg can show


def experiments() -> dict[str, list[str]]:
    """The experiments, each with the kinds of run that it has: sft, grpo, study."""
    files = (CONF / "experiment").rglob("*.yaml")
    runs = [path.relative_to(CONF / "experiment") for path in files if path.stem != "common"]
    names = sorted({run.parent.as_posix() for run in runs})
    return {
        name: sorted(run.stem for run in runs if run.parent.as_posix() == name) for name in names
    }


def groups() -> dict[str, list[str]]:
    """The other configuration groups and their options, read off the files."""
    return {
        folder.name: sorted(path.stem for path in folder.iterdir() if path.name[0] not in "._")
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and folder.name not in ("experiment", "__pycache__")
    }


def sort_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Overrides, and Hydra's options with their values, in whatever order they were given.

    Hydra itself wants all overrides in one place.

    Raises:
        ValueError: a word is neither.

    >>> sort_words(["seed=1", "--cfg", "job", "name=a"])
    (['seed=1', 'name=a'], ['--cfg', 'job'])
    """
    overrides, options = [], []
    words = list(reversed(words))  # the next word is the last of the list
    while words:
        word = words.pop()
        name, equals, value = word.partition("=")
        if word[0:1] != "-":
            if not equals and word[0:1] != "~":
                raise ValueError(f"{word!r} is not key=value")
            overrides.append(word)
            continue
        if name not in WITH_VALUE + WITHOUT_VALUE:
            raise ValueError(f"no option {name}; {nearest(name, WITH_VALUE + WITHOUT_VALUE)}")
        options.append(word)
        if name in WITH_VALUE and not equals and words and not words[-1].startswith(("-", "~")):
            if name in ("--info", "-i") and "=" in words[-1]:
                continue  # its value may be left out
            value = words.pop()
            options.append(value)
        if name in ("--cfg", "-c") and value not in SHOWN:
            raise ValueError(f"{name} shows one of {', '.join(SHOWN)}, not {value!r}")
    return overrides, options


def kind_of(overrides: list[str], kind: str | None) -> str:
    """The kind of run: that of the entry point or, for `launch` (None), of `train=...`.

    >>> kind_of(["train=grpo", "seed=1"], None)
    'grpo'
    """
    chosen = [text.removeprefix("train=") for text in overrides if text.startswith("train=")]
    return kind or (chosen[-1] if chosen else "sft")


def expand_overrides(overrides: list[str], kind: str | None) -> list[str]:
    """Overrides with the trainer chosen and the two shorthands above written out.

    `kind` is the trainer of an entry point, or `study`; with None (launch) it is taken from
    `train=...`.

    >>> expand_overrides(["train.args.max_steps=8", "seed=1"], "grpo")
    ['train=grpo', '++train.args.max_steps=8', 'seed=1']
    """
    added = [] if kind in (None, "study") else [f"train={kind}"]
    return added + [_expand(text, kind_of(overrides, kind)) for text in overrides]


def _expand(override: str, kind: str) -> str:
    key, equals, value = override.partition("=")
    if key in ("experiment", "debug"):
        names = value.split(",")  # several in a sweep
        there = [(CONF / key / name / f"{kind}.yaml").exists() for name in names]
        variants = [f"{n}/{kind}" if known else n for n, known in zip(names, there, strict=True)]
        return f"{key}={','.join(variants)}"
    if key.rpartition(".")[2] in PLACES:  # Hydra can't read a bare ~; in quotes: train/config.py
        value = re.sub(r"(^|[:,\[])~(?=/|$)", rf"\g<1>{Path.home()}", value)
        override = f"{key}{equals}{value}"
    if equals and key.startswith(tuple(f"{name}." for name in OPEN_MAPS)):
        return f"++{override}"
    return override

"""The command line that train.sft, train.grpo and launch share: Hydra, and a help that is instant.

Two things are added to Hydra's command line. `experiment=NAME` means `NAME/sft`, `NAME/grpo` or,
for a study, `NAME/study` where conf/experiment/NAME is a directory; so does `debug=NAME`. And a key
below an open map (`train.args.*` and the others of OPEN_MAPS) needs no `+`; it is checked by name
against the class that it is handed to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).parent.parent / "conf"
OPEN_MAPS = (
    *("train.args", "peft.args", "deepspeed.config"),
    *("data.options", "evaluation.options", "pairs.options"),
    *("study.models", "study.pairs", "study.needs", "study.defaults", "study.steps"),
)

HELP = """\
{usage}

Groups (choose with GROUP=OPTION):
{groups}

Set any key with key=value; every key stands in conf/ under a comment with its command.
Arguments of TRL, PEFT and DeepSpeed: train.args.NAME=VALUE, peft.args.NAME=VALUE,
deepspeed.config.NAME=VALUE.
--cfg job --resolve   print the composed configuration and stop
--multirun            run every combination of comma-separated values
--hydra-help          Hydra's own options"""


def groups() -> dict[str, list[str]]:
    """The configuration groups and their options, read off the files."""
    found = {
        folder.name: sorted(path.stem for path in folder.iterdir() if path.name[0] not in "._")
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and folder.name not in ("experiment", "__pycache__")
    }
    experiments = (CONF / "experiment").rglob("*.yaml")
    runs = [path.relative_to(CONF / "experiment") for path in experiments if path.stem != "common"]
    names = sorted({run.parent.as_posix() for run in runs})
    kinds = {
        name: sorted(run.stem for run in runs if run.parent.as_posix() == name) for name in names
    }
    found["experiment"] = [f"{name} ({', '.join(kinds[name])})" for name in names]
    return found


def help_text(usage: str) -> str:
    """What `--help` prints."""
    lines = [f"  {name}: {', '.join(options)}" for name, options in sorted(groups().items())]
    return HELP.format(usage=usage.strip(), groups="\n".join(lines))


def expand_overrides(overrides: list[str], kind: str | None) -> list[str]:
    """Hydra overrides with the trainer chosen and the two shorthands above written out.

    `kind` is the trainer of an entry point, or `study`; with None (launch) it is taken from
    `train=...`.
    """
    if kind is None:
        chosen = [text.removeprefix("train=") for text in overrides if text.startswith("train=")]
        kind, added = (chosen[-1] if chosen else "sft"), []
    else:
        added = [] if kind == "study" else [f"train={kind}"]
    return added + [_expand(text, kind) for text in overrides]


def _expand(override: str, kind: str) -> str:
    key, equals, value = override.partition("=")
    if key in ("experiment", "debug"):
        names = value.split(",")  # several in a sweep
        there = [(CONF / key / name / f"{kind}.yaml").exists() for name in names]
        variants = [f"{n}/{kind}" if known else n for n, known in zip(names, there, strict=True)]
        return f"{key}={','.join(variants)}"
    if equals and key.startswith(tuple(f"{name}." for name in OPEN_MAPS)):
        return f"++{override}"
    return override


def start(
    kind: str | None,
    action: Callable[[DictConfig], None],
    usage: str,
    arguments: list[str],
) -> None:
    """Compose the configuration from a command line and run an action on it.

    `usage` (the entry module's docstring) heads the help.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_text(usage))
        return
    import hydra

    from train.config import register

    register()
    sys.argv[1:] = expand_overrides(arguments, kind)
    decorate = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    decorate(action)()

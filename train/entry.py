"""The command line that train.sft, train.grpo and launch share: Hydra, errors, help.

Two things are added to Hydra's command line. `experiment=NAME` means `NAME/sft` or `NAME/grpo`
where conf/experiment/NAME is a directory. And a key below an open map (`train.args.*` and the
others of OPEN_MAPS) needs no `+`; it is checked by name against the class that it is handed to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from omegaconf import DictConfig

from train.config import OPEN_MAPS, register

CONF = Path(__file__).parent.parent / "conf"


def expand_overrides(overrides: list[str], kind: str | None) -> list[str]:
    """Hydra overrides with the trainer chosen and the two shorthands above written out.

    `kind` is the trainer of an entry point; with None (launch) it is taken from `train=...`.
    """
    if kind is None:
        chosen = [text.removeprefix("train=") for text in overrides if text.startswith("train=")]
        kind, added = (chosen[-1] if chosen else "sft"), []
    else:
        added = [f"train={kind}"]
    return added + [_expand(text, kind) for text in overrides]


def _expand(override: str, kind: str) -> str:
    key, equals, value = override.partition("=")
    if key == "experiment" and (CONF / "experiment" / value / f"{kind}.yaml").exists():
        return f"experiment={value}/{kind}"
    if equals and key.startswith(tuple(f"{name}." for name in OPEN_MAPS)):
        return f"++{override}"
    return override


def start(kind: str | None, action: Callable[[DictConfig], None]) -> None:
    """Compose the configuration from the command line and run an action on it."""
    register()
    sys.argv[1:] = expand_overrides(sys.argv[1:], kind)
    decorate = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    decorate(action)()

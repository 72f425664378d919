"""A configuration that was written before, read back: whatever the file is, in one line.

RUN/launch.yaml (of the launcher for its processes) and RUN/config.yaml (of the run) hold every key,
resolved. One of an earlier version may lack keys that came later.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from analysis.mistakes import one_line

PARTS = ("train", "model", "data")  # mappings; without the first it is no run's configuration


def read_text(path: Path) -> str:
    """The text of a file of a configuration.

    Raises:
        ValueError: it is not there, or no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read ({one_line(error)}); {_MEND}") from None


def read_settings(path: Path, parse: Callable[[str], Any] = yaml.safe_load) -> dict[str, Any]:
    """The values of a file, which has the form of a run's configuration: names, and parts of names.

    Raises:
        ValueError: it has not.
    """
    text = read_text(path)
    try:
        found = parse(text)
    except (yaml.YAMLError, RecursionError, ValueError, AssertionError) as error:
        raise ValueError(f"{path} is no YAML ({one_line(error)}); {_MEND}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no configuration; {_MEND}")
    for part in PARTS:
        if not isinstance(found.get(part, None if part == PARTS[0] else {}), dict):
            what = "not the keys of one" if part in found else "missing"
            raise ValueError(f"{path} holds no configuration of a run: {part} is {what}; {_MEND}")
    if not isinstance(found["train"].get("args") or {}, dict):
        raise ValueError(f"{path}: train.args is {found['train']['args']!r}, no mapping; {_MEND}")
    return found


_MEND = "restore it, or start the run again under another name"

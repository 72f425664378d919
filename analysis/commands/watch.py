"""Look at runs while they go on: state, step, score and heads, of any trainer that leaves run.json.

    headlab watch runs/                      # all runs in a directory
    headlab watch runs/my-sft                # one run

Nothing is written, and ending it costs the runs nothing. It fits 80 columns, also over ssh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.cli import key
from analysis.ranges import Range


@dataclass
class Options:
    runs: str = key("directory of a run, or of several, at most two folders deep", "runs")
    every: float = key("seconds between two looks", 2.0, Range(0.1, 3600))


def as_keys(arguments: Sequence[str]) -> list[str]:
    """A word that is no key=value is the directory."""
    return [f"runs={word}" if "=" not in word and word[:1] != "-" else word for word in arguments]


def act(options: Options) -> None:
    """Show the runs until Ctrl-C."""
    from analysis.watch.terminal import watch

    watch(options.runs, options.every)

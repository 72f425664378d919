"""The tables of "Thinking Sparks!" (arXiv 2509.25758) with our numbers beside the paper's.

    headlab paper runs=runs                        all that is found below runs/
    headlab paper 'runs=[runs/paper-think-seed0,runs/paper-scaling-seed0]'
    headlab paper 'runs=runs/paper-*-seed0' format=markdown

What has not been run is `-`. `headlab study` makes the evaluations, `headlab sft` and `headlab
grpo` the runs (docs/paper.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.cli import key


@dataclass
class Options:
    runs: Any = key("directory, glob, or list [DIR,DIR,...]; searched with all below them")
    format: str = key("text or markdown", "text")


def act(options: Options) -> None:
    """Print the tables.

    Raises:
        ValueError: the format is unknown, a directory is missing, or nothing is found.
    """
    from analysis.reporting.paper import (
        FORMATS,
        directories,
        format_tables,
        read_results,
        tracked_runs,
    )

    if options.format not in FORMATS:
        raise ValueError(f"format is {options.format!r}; choose one of: {', '.join(FORMATS)}")
    places = directories(options.runs)
    runs, results = tracked_runs(places), read_results(places)
    if not runs and not results:
        raise ValueError(
            f"{', '.join(map(str, places))}: no tracked run and no scores.json with a label; see "
            "conf/experiment/paper for the commands that make them"
        )
    print(format_tables(runs, results, options.format), end="")

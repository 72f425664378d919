"""Write the page of one run, or one page of several.

    headlab report runs=runs/my-sft                  -> runs/my-sft/report.html
    headlab report 'runs=[runs/my-sft,runs/my-grpo]' out=both.html

It is a single HTML file that needs no network; docs/report.md says how to read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.cli import key


@dataclass
class Options:
    runs: Any = key("directory of a run, hub:ORG/NAME, or a list of several: [DIR,DIR]")
    out: str | None = key("the page; null: report.html in the run, or beside the runs", None)


def act(options: Options) -> None:
    """Write the page and say where it is."""
    from analysis.reporting.hub import fetched, is_on_hub
    from analysis.reporting.report import write_report
    from analysis.trajectories.run import read_runs

    given = options.runs if isinstance(options.runs, list) else [options.runs]
    runs = [fetched(run) if is_on_hub(run) else Path(str(run)).expanduser() for run in given]
    if not runs:
        raise ValueError("runs is empty; name a run's directory, or several: runs=[DIR,DIR]")
    home = runs[0] if len(runs) == 1 else runs[0].parent
    if is_on_hub(given[0]):  # whose directory is the cache's
        home = Path()
    out = home / "report.html" if options.out is None else Path(options.out).expanduser()
    print(write_report(read_runs(runs), out))

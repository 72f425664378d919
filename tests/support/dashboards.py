"""A run of some checkpoints, made up, and the data of its page.

`python -m tests.support.dashboards DIR` leaves one to look at.
"""

from __future__ import annotations

import sys
from pathlib import Path

from analysis.records.evaluations import write_evaluation
from analysis.records.training_log import append_metrics
from analysis.reporting.dashboard.form import PageData
from analysis.reporting.dashboard.page import page_data
from analysis.trajectories.run import read_runs
from tests.support.planted_runs import SCORE, configure, plant

HEADS = ["a0.h0", "a0.h1", "a0.h2", "a0.h3", "a1.h0", "a1.h1", "a1.h2", "a1.h3"]


def make_long_run(run: Path, checkpoints: int = 6, kind: str = "sft") -> Path:
    """Heads come one after another, the first of the base goes, and another comes and goes."""
    configure(run, kind)
    for number in range(checkpoints):
        step = 10 * number
        came = [HEADS[2 + i] for i in range(min(number, 5))]
        passing = ["a1.h3"] if number % 4 == 2 else []
        first = HEADS[:1] if number < 3 else []
        rare = ("a1.h2",) if number == 1 else ()
        plant(run, step, [*dict.fromkeys([*first, HEADS[1], *came, *passing])], rare)
        value = 1 / (1 + number)
        append_metrics(run, step + 5, {"loss": value, "reward": 1 - value})
        share = 1 - value
        ends = {"pass_at_1": share, "low": max(0.0, share - 0.1), "high": min(1.0, share + 0.1)}
        write_evaluation(run, step, {**ends, **SCORE})
    return run


def data_of(*runs: Path) -> PageData:
    """The data of a page about some runs."""
    found = read_runs(runs)
    return page_data(found, "headlab: " + " and ".join(run.label for run in found), "headlab 9.9")


if __name__ == "__main__":
    print(make_long_run(Path(sys.argv[1])))

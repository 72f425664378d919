"""Print the data of the page about some runs, as JSON: `python -m ... RUN [RUN...]`."""

from __future__ import annotations

import sys

from analysis.files import to_json
from analysis.reporting.dashboard.page import page_data
from analysis.trajectories.run import read_runs

if __name__ == "__main__":
    runs = read_runs(sys.argv[1:])
    title = "headlab: " + " and ".join(run.label for run in runs)
    print(to_json(page_data(runs, title, "headlab"), separators=(",", ":")))

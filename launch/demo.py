"""SFT and GRPO from one base, side by side: which heads does each bring into use?

    headlab demo experiment=tiny                 what `make demo` runs
    headlab demo experiment=smollm2              what `make demo-real` runs
    headlab demo experiment=tiny seed=1 ...      any override is given to both runs

A run that was interrupted is continued; a finished one is not run again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

KINDS = ("sft", "grpo")


def run_directory(overrides: list[str], kind: str) -> Path:
    """Where a run of these overrides is kept."""
    from train.entry import compose

    return Path(compose(kind, overrides).run_dir)


def main(overrides: list[str]) -> None:
    if not overrides or {"-h", "--help"} & set(overrides):
        print(__doc__)
        return
    started = time.monotonic()
    runs = {kind: run_directory(overrides, kind) for kind in KINDS}
    for number, (kind, directory) in enumerate(runs.items(), start=1):
        print(f"\n[{number}/{len(runs)}] {kind.upper()} -> {directory}", flush=True)
        asked = [f"train={kind}", "resume=auto", "resources.processes=1", *overrides]
        status = subprocess.run([sys.executable, "-m", "launch", *asked]).returncode
        if status:
            raise SystemExit(status)
    _summary(runs, time.monotonic() - started)


def _summary(runs: dict[str, Path], seconds: float) -> None:
    from analysis.reporting.report import write_report
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import read_runs

    directories = list(runs.values())
    read = read_runs(directories)
    for kind, run in zip(runs, read, strict=True):
        print(f"\n{kind.upper()}")
        print(format_table(run))
    page = directories[0].parent / f"report-{'-'.join(run.name for run in directories)}.html"
    print(f"\nreport:  {write_report(read, page)}")
    for directory in directories:
        for offline in sorted(directory.glob("wandb/*run-*")):
            print(f"W&B run: {offline}")
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])

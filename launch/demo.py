"""SFT and GRPO from one base, side by side: which heads does each bring into use?

    headlab demo experiment=tiny                 what `make demo` runs
    headlab demo experiment=smollm2              what `make demo-real` runs
    headlab demo experiment=tiny seed=1          overrides are given to both runs

A run that was interrupted is continued; a finished one is not run again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from analysis.cli import is_answered
from train.entry import compose, help_text
from train.overrides import sort_words
from train.program import program

KINDS = ("sft", "grpo")


def run_directory(overrides: list[str], kind: str) -> Path:
    """Where a run of these overrides is kept."""
    return Path(compose(kind, overrides).run_dir)


def main(arguments: list[str]) -> None:
    """The command line."""
    if is_answered(arguments or ["--help"], lambda: help_text(__doc__ or "")):
        return
    try:
        overrides, options = sort_words(arguments)
        if options:
            raise ValueError(f"{options[0]} is for one run: headlab sft {options[0]} ...")
        runs = {kind: run_directory(overrides, kind) for kind in KINDS}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    run(overrides, runs)


def run(overrides: list[str], runs: dict[str, Path]) -> None:
    """Both runs, one after the other, and what came of them."""
    started = time.monotonic()
    for number, (kind, directory) in enumerate(runs.items(), start=1):
        print(f"\n[{number}/{len(runs)}] {kind.upper()} -> {directory}", flush=True)
        asked = [f"train={kind}", "resume=auto", "resources.processes=1", *overrides]
        status = subprocess.run(program("launch", *asked)).returncode
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

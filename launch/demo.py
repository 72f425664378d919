"""The demo: one small model is trained twice, and what became of its heads.

    headlab demo experiment=lookup               in three acts: what `make demo` runs
    headlab demo experiment=tiny                 SFT and GRPO from one base, side by side
    headlab demo experiment=smollm2              what `make demo-real` runs
    headlab demo experiment=lookup seed=1        overrides are given to both runs

The acts: SFT teaches a model that guesses to look a value up, and heads emerge; those heads are
taken out, and the answers with them; they are zeroed in the weights, and GRPO brings them back.

A run that was interrupted is continued; a finished one is not run again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cli import is_answered
from launch.demo_runs import page_of, tell_places, train
from train.entry import compose, help_text
from train.overrides import sort_words

if TYPE_CHECKING:
    from omegaconf import DictConfig

KINDS = ("sft", "grpo")


def main(arguments: list[str]) -> None:
    """The command line."""
    if is_answered(arguments or ["--help"], lambda: help_text(__doc__ or "")):
        return
    from launch.acts import planted_in, three_acts

    try:
        overrides, options = sort_words(arguments)
        if options:
            raise ValueError(f"{options[0]} is for one run: headlab sft {options[0]} ...")
        configs: dict[str, DictConfig] = {kind: compose(kind, overrides) for kind in KINDS}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    runs = {kind: Path(cfg.run_dir) for kind, cfg in configs.items()}
    started = time.monotonic()
    if configs["grpo"].model.path == str(planted_in(runs["sft"])):
        three_acts(overrides, runs)
    else:
        side_by_side(overrides, runs)
    print(f"{time.monotonic() - started:.0f} s")


def side_by_side(overrides: list[str], runs: dict[str, Path]) -> None:
    """Both runs, one after the other, and what came of them."""
    from analysis.reporting.tables import format_table

    for number, (kind, directory) in enumerate(runs.items(), start=1):
        print(f"\n[{number}/{len(runs)}] {kind.upper()} -> {directory}", flush=True)
        train(overrides, kind)
    for kind, run in zip(runs, page_of(list(runs.values())), strict=True):
        print(f"\n{kind.upper()}")
        print(format_table(run))
    tell_places(list(runs.values()))


if __name__ == "__main__":
    main(sys.argv[1:])

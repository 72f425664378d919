"""GRPO with verifiable rewards and head tracking.

    headlab grpo experiment=tiny
    headlab grpo experiment=tiny train.args.num_generations=16 train.args.beta=0.04

The run goes to runs/NAME; docs/training.md says more.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from train.entry import start

if TYPE_CHECKING:
    from omegaconf import DictConfig


def action(cfg: DictConfig) -> None:
    from train.run import run_or_exit

    run_or_exit(cfg)


def main(arguments: list[str]) -> None:
    """The command line."""
    start("grpo", action, __doc__ or "", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Supervised fine-tuning with head tracking.

    headlab sft experiment=tiny
    headlab sft model=hub model.path=DIR data=file data.source=jsonl:FILE name=my-run

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
    start("sft", action, __doc__ or "", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])

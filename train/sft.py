"""Supervised fine-tuning with head tracking.

python -m train.sft experiment=tiny
python -m train.sft model=hub model.path=DIR data=file data.source=jsonl:FILE name=my-run
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from train.entry import start

if TYPE_CHECKING:
    from omegaconf import DictConfig


def action(cfg: DictConfig) -> None:
    from train.run import run_or_exit

    run_or_exit(cfg)


if __name__ == "__main__":
    start("sft", action, __doc__ or "")

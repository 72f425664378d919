"""Supervised fine-tuning with head tracking.

python -m train.sft experiment=tiny
python -m train.sft model=hub model.path=DIR data=file data.source=file:FILE.jsonl name=my-run
"""

from omegaconf import DictConfig

from train.entry import start


def action(cfg: DictConfig) -> None:
    from train.run import run_or_exit

    run_or_exit(cfg)


if __name__ == "__main__":
    start("sft", action)

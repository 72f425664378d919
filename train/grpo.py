"""GRPO with verifiable rewards and head tracking.

python -m train.grpo experiment=tiny
python -m train.grpo experiment=tiny train.args.num_generations=16 train.args.beta=0.04
"""

from omegaconf import DictConfig

from train.entry import start


def action(cfg: DictConfig) -> None:
    from train.run import run_or_exit

    run_or_exit(cfg)


if __name__ == "__main__":
    start("grpo", action)

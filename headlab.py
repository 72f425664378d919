"""headlab in one name: the library for scripts and notebooks, and the command `headlab`.

    import headlab

    pairs = headlab.Pairs.load("pairs.jsonl", tokenizer)
    scores = headlab.attribute(model, pairs)
    circuit = headlab.select_circuit(scores, fraction=0.05)

Names are those of the package `analysis` and are loaded when first used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import analysis

if TYPE_CHECKING:
    from analysis import *  # noqa: F403

__all__ = analysis.__all__

TRAINING = {
    "sft": "supervised fine-tuning with head tracking",
    "grpo": "GRPO with verifiable rewards and head tracking",
    "launch": "start a training run in several processes, or through Slurm",
    "sidecar": "track the checkpoints of a run from a process of its own",
    "study": "experiments that train nothing: circuits and evaluations",
    "demo": "SFT and GRPO of a tiny model, with head tracking, and their reports",
}


def __getattr__(name: str) -> Any:
    if name not in analysis.HOMES:
        raise AttributeError(f"module 'headlab' has no attribute {name!r}")
    return getattr(analysis, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _run(command: str, arguments: list[str]) -> None:
    from importlib import import_module

    from analysis.commands import run

    if command not in TRAINING:
        run(command, arguments)
        return
    homes = {"sft": "train.sft", "grpo": "train.grpo", "launch": "launch.__main__"}
    import_module(homes.get(command, f"launch.{command}")).main(arguments)


def main() -> None:
    """The console command."""
    from analysis.cli import dispatch
    from analysis.commands import COMMANDS

    dispatch("headlab", {**TRAINING, **COMMANDS}, _run, sys.argv[1:])


if __name__ == "__main__":
    main()

"""headlab in one name: the library for scripts and notebooks, and the command `headlab`.

    import headlab

    pairs = headlab.Pairs.load("pairs.jsonl", tokenizer)
    scores = headlab.attribute(model, pairs)
    circuit = headlab.select_circuit(scores, fraction="auto")

Names are those of the package `analysis` and are loaded when first used. A type checker knows them
from there (`from analysis import attribute`): a module of one file can't say that it is typed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # The packages are those beside this file: not the working directory's, which -m puts first.
    if not sys.flags.safe_path:
        del sys.path[0]
    if str(Path(__file__).parent) not in sys.path:
        sys.path.insert(0, str(Path(__file__).parent))

import analysis

if TYPE_CHECKING:
    from analysis import *  # noqa: F403

if not hasattr(analysis, "HOMES"):
    raise ImportError(f"{analysis.__file__} hides headlab's package `analysis`; rename that file")

__all__ = analysis.__all__
__version__ = analysis.__version__

TRAINING = {  # command: its module, and what it is for
    "sft": ("train.sft", "supervised fine-tuning with head tracking"),
    "grpo": ("train.grpo", "GRPO with verifiable rewards and head tracking"),
    "launch": ("launch.__main__", "start a run in several processes, or through Slurm"),
    "sidecar": ("launch.sidecar", "track the checkpoints of a run from a process of its own"),
    "study": ("launch.study", "experiments that train nothing: circuits and evaluations"),
    "demo": (
        "launch.demo",
        "a small model is trained twice; what became of its heads, and their report",
    ),
    "recipe": ("train.recipes.command", "make a model on this machine and print its directory"),
}
PROCESSES = ("train.run", "launch.torchrun", "launch.bench.bare_trl")  # of train.program


def __getattr__(name: str) -> Any:
    if name not in analysis.HOMES:
        raise AttributeError(f"module 'headlab' has no attribute {name!r}")
    return getattr(analysis, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def _run(command: str, arguments: list[str]) -> None:
    from importlib import import_module

    from analysis.commands import run

    if command in TRAINING:
        import_module(TRAINING[command][0]).main(arguments)
    else:
        run(command, arguments)


def main() -> None:
    """The console command."""
    from analysis.cli import dispatch
    from analysis.commands import COMMANDS

    purposes = {command: purpose for command, (_, purpose) in TRAINING.items()}
    try:
        dispatch("headlab", {**purposes, **COMMANDS}, _run, sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PROCESSES:
        from runpy import run_module

        del sys.argv[0]
        run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        main()

"""The commands of `analysis`: one module each, with `Options`, a docstring as its help, and `act`.

`headlab COMMAND` and `python -m analysis COMMAND` are the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

COMMANDS = {
    "attribute": "score every edge of a model on a file of pairs",
    "faithfulness": "how much of a behaviour circuits of growing size keep",
    "track": "track checkpoints that exist already",
    "compare": "two circuits or more side by side: heads, edges, each in each model",
    "agreement": "whether two metrics find the same heads at a run's checkpoints",
    "evaluate": "pass@1 with and without a change of some heads, against controls",
    "needed": "whether the heads that a run calls are needed, against random heads and the base",
    "intervene": "write a change of some heads into a checkpoint's weights",
    "think": "the circuits of one model with thinking on and off",
    "roles": "what the heads of a circuit attend to and copy",
    "report": "the page of a run, or one page of several",
    "watch": "runs while they go on, and what becomes of their heads",
    "publish": "give W&B what it has not got yet",
    "paper": "the tables of the paper with our numbers beside them",
    "pairs": "write a file of prompt pairs for a model",
    "models": "which models are supported, or what is found in one",
    "bench": "time and memory of attribution and bootstrap on this machine",
}


def command_module(command: str) -> Any:
    """The module of a command of COMMANDS."""
    return import_module(f"analysis.commands.{command}")


def run(command: str, arguments: list[str]) -> None:
    """Run a command of COMMANDS with its `key=value` arguments."""
    from analysis.cli import main

    module = command_module(command)
    main(module.Options, module.__doc__ or "", module.act, as_keys(module, arguments))


def as_keys(module: Any, arguments: list[str]) -> list[str]:
    """`key=value` for the words of a command that takes others too."""
    found: list[str] = module.as_keys(arguments) if hasattr(module, "as_keys") else arguments
    return found

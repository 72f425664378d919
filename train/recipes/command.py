"""Print the directory of a model that is made on this machine; it is made first if need be.

    headlab recipe name=qwen_coder
    headlab evaluate model=$(headlab recipe name=qwen_coder) task=gsm8k size=100

tiny_random is the embedded tiny model with random weights; tiny_base the same, trained to a base
level (some minutes); tiny_lookup one that guesses in a lookup (a minute); tiny_moe, tiny_hybrid and
tiny_neox are as small, of other families. smollm2 and qwen_coder are SmolLM2-135M-Instruct and
Qwen2.5-Coder-1.5B-Instruct (6.2 GB), each converted once from wheels of the Python package index.
Models are kept in $HEADLAB_CACHE, by default ~/.cache/headlab. All but the directory goes to
stderr.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from analysis import cli
from analysis.ranges import SEED
from train.schema import RECIPES


@dataclass
class Options:
    name: str = cli.key(" or ".join(RECIPES), among=RECIPES)
    seed: int = cli.key("of the weights of the tiny ones", 0, SEED)


def act(options: Options) -> None:
    """Make the model and print where it is."""
    from train.recipes.registry import build_recipe

    sys.stdout.flush()
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries and processes print
    try:
        directory = build_recipe(options.name, options.seed)
    finally:
        sys.stdout.flush()
        os.dup2(answer, 1)
        os.close(answer)
    print(directory)


def main(arguments: list[str]) -> None:
    """The command line."""
    cli.main(Options, __doc__ or "", act, arguments)

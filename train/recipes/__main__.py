"""Print the directory of a recipe's model, made first where it is not in the cache."""

from __future__ import annotations

import os
import sys

from train.recipes.registry import BUILDERS, build_recipe


def main(arguments: list[str]) -> int:
    """The command; returns its status."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    if len(arguments) != 1 or arguments[0] not in BUILDERS:
        given = " ".join(arguments) or "none"
        print(f"error: name one of {', '.join(BUILDERS)} (given: {given})", file=sys.stderr)
        return 2
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries and processes print
    try:
        directory = build_recipe(arguments[0], seed=0)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with os.fdopen(answer, "w") as stream:
        print(directory, file=stream)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

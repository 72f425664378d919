"""The commands that need no trainer: python -m analysis COMMAND key=value ..."""

from __future__ import annotations

import sys

from analysis.cli import dispatch
from analysis.commands import COMMANDS, run

if __name__ == "__main__":
    dispatch("python -m analysis", COMMANDS, run, sys.argv[1:])

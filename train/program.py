"""How this project starts processes of its own: `headlab.py` by its path, from any directory.

`python -m train.run` would look into the working directory first, where a train.py of the user's
may lie. With -P Python does not, and headlab.py finds the packages that lie beside it, whether it
is installed or a plain clone.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "headlab.py"


def program(*words: str) -> list[str]:
    """The command `headlab WORDS`; the first may also be one of headlab.PROCESSES."""
    return [sys.executable, "-u", "-P", str(PROGRAM), *words]

"""Run `headlab evaluate` under vLLM's own Python; print how often the engine was started.

python -m tests.real.vllm_answers WORD...     the words of the command
"""

from __future__ import annotations

import json
import sys

from headlab import main


def run(words: list[str]) -> int:
    """The command, in this process; how many engines it started."""
    import vllm

    starts = 0

    class Counted(vllm.LLM):
        def __init__(self, *args: object, **options: object) -> None:
            nonlocal starts
            starts += 1
            super().__init__(*args, **options)

    vllm.LLM = Counted
    sys.argv = ["headlab", "evaluate", *words]
    main()
    return starts


if __name__ == "__main__":
    print(json.dumps({"starts": run(sys.argv[1:])}))

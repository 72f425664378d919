"""Further pairs for the base: every checkpoint is compared with it, so it is measured better, once.

The noise of a comparison is that of both sides. The base is scored at step 0 on the run's pairs and
on further ones of the same source, which lie in RUN/base_pairs.jsonl; changes of heads are then
tested against the base over all of these (analysis/heads/changes.py). All else that is said of the
base, its circuit, its raw sets and their intervals, is of the run's pairs, as of any checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.files import atomic_write
from analysis.prompts.pairs import Pairs
from analysis.tracking import distributed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "base_pairs.jsonl"


def freeze_further(
    run: Path, further: Pairs | None, tokenizer: PreTrainedTokenizerBase | None
) -> Pairs | None:
    """The further pairs in a run's directory; where it has none, those given, which are saved.

    Raises:
        ValueError: the file can't be read.
    """
    path = run / FILE
    if path.exists():
        return Pairs.load(path, tokenizer)
    if further is not None:
        with atomic_write(path) as draft:  # other ranks may look
            further.save(draft)
    return further


def further_pairs(
    run: Path, given: Pairs | None, tokenizer: PreTrainedTokenizerBase | None
) -> Pairs | None:
    """On every rank what `freeze_further` gives on rank 0; called by all ranks."""

    def freeze() -> Pairs | None:
        return freeze_further(run, given, tokenizer) if distributed.rank() == 0 else None

    found = distributed.together(freeze)
    return distributed.from_main(lambda: found)

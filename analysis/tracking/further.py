"""Further pairs for the base: every checkpoint is compared with it, so it is measured better, once.

The noise of a comparison is that of both sides. The base is scored at step 0 on the run's pairs and
on further ones of the same source, which lie in RUN/base_pairs.jsonl; changes of heads are then
tested against the base over all of these (analysis/heads/changes.py). All else that is said of the
base, its circuit, its raw sets and their intervals, is of the run's pairs, as of any checkpoint.

Those of a file of pairs, NAME.jsonl, are in base_NAME.jsonl beside it: so the pairs.jsonl of
another run brings what that run's base was measured on, and `headlab pairs` writes both.
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


def beside(file: Path) -> Path:
    """Where the further pairs of a file of pairs are, if it has any."""
    return file.with_name(f"base_{file.name}")


def pairs_of_file(
    file: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    metric: str | None = None,
    times: int = 1,
) -> Pairs:
    """The pairs of a file, and `times` - 1 further ones for each from the file beside it.

    Fewer where it has no more, counting those that share a prompt with each other once and with the
    pairs not at all.

    Raises:
        ValueError: as `Pairs.load`, of either.
    """
    pairs = Pairs.load(file, tokenizer, metric)
    if times == 1 or not beside(file).is_file():
        return pairs
    more = Pairs.load(beside(file), tokenizer, metric)
    both = Pairs([*pairs, *more], pairs.about).split(len(pairs))
    if both.further is None:
        return both
    return Pairs(list(both), both.about, Pairs(both.further[: (times - 1) * len(pairs)]))


def shortage(pairs: Pairs, times: int) -> str | None:
    """In words how many further pairs there are, where they are fewer than `times` asks for."""
    there = 0 if pairs.further is None else len(pairs.further)
    wanted = (times - 1) * len(pairs)
    if there >= wanted:
        return None
    return f"only {there} further pairs for the base, of {wanted} (tracking.base_pairs)"


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

"""Measure pairs together: each rank does some of them, with a batch that fits its memory."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import partial

import torch

from analysis.prompts.pairs import Pairs
from analysis.tracking import distributed

log = logging.getLogger(__name__)

# What is measured of pairs, in batches of a size: tensors with a row for each pair.
Measure = Callable[[Pairs, int], list[torch.Tensor]]


class SharedPairs:
    """The pairs that the ranks measure together, `batch_size` at a time or fewer.

    Where memory runs out the batch is halved, which does not change the result; it stays so.
    """

    def __init__(self, pairs: Pairs, batch_size: int) -> None:
        self.pairs = pairs
        self._batch_size = batch_size

    def measure(self, measure: Measure, widths: list[int]) -> list[torch.Tensor]:
        """What is measured of all pairs: float64 [pairs, width] each, on the CPU of every rank.

        To be called by all ranks.
        """
        mine = distributed.together(partial(self._mine, measure, sum(widths)))
        return list(distributed.all_rows(mine, len(self.pairs)).split(widths, 1))

    def _mine(self, measure: Measure, width: int) -> torch.Tensor:
        """The rows of this rank: [its pairs, width]."""
        rows = distributed.my_rows(len(self.pairs))
        if not rows:
            return torch.empty(0, width, dtype=torch.float64)
        found = self._halving(measure, Pairs([self.pairs[row] for row in rows]))
        return torch.cat([x.reshape(len(rows), -1).double() for x in found], 1)

    def _halving(self, measure: Measure, pairs: Pairs) -> list[torch.Tensor]:
        """`measure`, with the batch halved as long as memory runs out."""
        while True:
            try:
                return measure(pairs, self._batch_size)
            except RuntimeError as error:
                if not out_of_memory(error) or self._batch_size == 1:
                    raise
            self._batch_size //= 2
            log.warning("out of memory; going on with batches of %d pairs", self._batch_size)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU, whose error has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

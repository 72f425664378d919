"""What is measured of a checkpoint beside its circuit, each part by itself.

Roles and attention patterns of heads, what heads are compared with the base by, the routing of a
mixture of experts, and the next token's probabilities, of which comes the distance from the base.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from analysis.detection.detect import anatomy
from analysis.heads.attention import PATTERN_SCORES, pattern_scores
from analysis.heads.copying import copying
from analysis.heads.experts import Experts, as_experts, layers_with_experts, measure_experts
from analysis.heads.kept_patterns import as_kept, measure_patterns, rows_to_keep, write_patterns
from analysis.heads.pattern_rows import PatternRows, Patterns, budget, counts_kept
from analysis.heads.roles import summarise, write_roles
from analysis.heads.same import Kept
from analysis.models.graph import short_head_name
from analysis.prompts.pairs import Pairs
from analysis.prompts.regions import Region, find_regions
from analysis.records.record_files import read_log_probs
from analysis.tracking import distributed
from analysis.tracking.distance import (
    counts_read,
    kl_from,
    log_probabilities,
    logits_at_the_end,
    positions_read,
)
from analysis.tracking.same_heads import keep
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.sharing import SharedPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """What a record takes of it; None where it could not be measured, or there is none.

    experts: of a mixture of experts. log_probs: of the next token where the clean prompts are read,
    float32 [N, V]. kept: on rank 0, what heads are compared by. failed: what went wrong.
    """

    experts: Experts | None
    log_probs: torch.Tensor | None
    kept: Kept | None
    failed: list[Exception]


class Beside:
    """Measures the checkpoints of one run; to be called by all ranks."""

    def __init__(
        self,
        run: Path,
        settings: TrackingSettings,
        shared: SharedPairs,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """tokenizer: tells which tokens the roles of heads are about (prompts/regions.py)."""
        self._run = run
        self._settings = settings
        self._shared = shared
        self._pairs = shared.pairs
        self._tokenizer = tokenizer

    def measure(self, model: nn.Module, step: int) -> Measured:
        """All of it. Roles and patterns are written; a part that fails costs no other."""
        failed: list[Exception] = []
        patterns = _spared(partial(self._roles, model, step), failed)
        _spared(partial(self._patterns, model, step), failed)
        kept = _spared(partial(keep, model, patterns), failed)
        experts = _spared(partial(self._experts, model), failed)
        log_probs = _spared(partial(self._log_probabilities, model), failed)
        return Measured(experts, log_probs, kept, failed)

    def _roles(self, model: nn.Module, step: int) -> Patterns:
        """Write what the heads attend to and copy on the clean prompts; what is kept of it."""
        names = [short_head_name(name) for name in anatomy(model).graph.head_names]
        regions = distributed.together(partial(find_regions, self._pairs, self._tokenizer))
        mine = [regions.each[row] for row in distributed.my_rows(len(self._pairs))]
        lengths = [len(pair.clean_ids) for pair in self._pairs]
        most = budget(len(self._pairs), len(names))
        counts = torch.tensor(counts_kept(lengths, most))
        width = int(counts.max())
        scores, shares = self._shared.measure(
            partial(_seen, model, mine, len(names), most, width),
            [len(PATTERN_SCORES) * len(names), width * len(names)],
        )
        distributed.together(partial(self._write_roles, model, step, scores, names, regions.unit))
        own = torch.arange(width) < counts[:, None]
        return Patterns(shares.half().unflatten(1, (width, len(names)))[own], lengths, most)

    def _write_roles(
        self, model: nn.Module, step: int, scores: torch.Tensor, names: list[str], unit: str
    ) -> None:
        """On rank 0. scores: [pairs, PATTERN_SCORES * A]."""
        if distributed.rank() != 0:
            return
        per_pair = scores.unflatten(1, (len(PATTERN_SCORES), -1))
        sample = self._settings.resamples, self._settings.seed
        roles = summarise(per_pair, copying(model), names, unit, *sample, groups=self._pairs.groups)
        write_roles(self._run, step, self._pairs.hash, roles)

    def _patterns(self, model: nn.Module, step: int) -> None:
        """Write where the heads look on a few clean prompts, to be shown."""
        rows = rows_to_keep(self._pairs, self._settings.patterns)
        if not rows:
            return
        some = Pairs([self._pairs[row] for row in rows])
        length, n_heads = max(len(pair.clean_ids) for pair in some), len(anatomy(model).graph.heads)

        def measure(pairs: Pairs, batch_size: int) -> list[torch.Tensor]:
            return [measure_patterns(model, pairs, batch_size, length)]

        [found] = SharedPairs(some, self._settings.batch_size).measure(measure, [n_heads * length])

        def write() -> None:
            if distributed.rank() == 0:
                measured = found.unflatten(1, (n_heads, length))
                kept = as_kept(measured, self._pairs, rows, self._tokenizer)
                write_patterns(self._run, step, kept)

        distributed.together(write)

    def _experts(self, model: nn.Module) -> Experts | None:
        """What the tokens of the clean prompts are given to; None in a model without experts."""
        layers = distributed.together(partial(layers_with_experts, model, self._pairs))
        if not layers:
            return None
        length = max(len(pair.clean_ids) for pair in self._pairs)
        width = length * sum(layer.chosen for layer in layers.values())

        def measure(pairs: Pairs, batch_size: int) -> list[torch.Tensor]:
            return [measure_experts(model, layers, length, pairs, batch_size)]

        [rows] = self._shared.measure(measure, [width])
        return as_experts(rows, layers, self._pairs)

    def _log_probabilities(self, model: nn.Module) -> torch.Tensor:
        """Of the next token where the clean prompts are read: float32 [N, V]."""
        size = distributed.together(partial(logits_at_the_end, model, self._pairs[0]))
        most = positions_read(self._pairs, size)
        [rows] = self._shared.measure(
            lambda pairs, batch_size: [log_probabilities(model, most, size, pairs, batch_size)],
            [most * size],
        )
        read = torch.arange(most) < counts_read(self._pairs, most)[:, None]
        return rows.float().unflatten(1, (most, size))[read]


def kl_from_base(
    run: Path, step: int, pairs: Pairs, log_probs: torch.Tensor | None
) -> torch.Tensor | None:
    """On rank 0: float32 [pairs]; None, with a warning, if it can't be had.

    log_probs: of the step, as in `Measured`.
    """
    if log_probs is None:
        return None
    base = log_probs if step == 0 else read_log_probs(run)
    if base is None or base.shape != log_probs.shape:
        log.warning(
            "step %d has no KL from the base: %s",
            step,
            "the record of step 0 holds no log-probabilities (track it again to have them)"
            if base is None
            else f"the base has {base.shape[1]} tokens, and this model {log_probs.shape[1]}",
        )
        return None
    counts = counts_read(pairs, positions_read(pairs, base.shape[1]))
    return kl_from(base, log_probs, counts)


def _spared(measure: Callable[[], T], failed: list[Exception]) -> T | None:
    """What is measured beside the circuit: a failure must not cost the record."""
    try:
        return measure()
    except Exception as error:
        failed.append(error)
        return None


def _seen(
    model: nn.Module,
    regions: list[Region],
    n_heads: int,
    most: int,
    width: int,
    pairs: Pairs,
    batch_size: int,
) -> list[torch.Tensor]:
    """What the heads attend to, [pairs, PATTERN_SCORES, A], and their patterns [pairs, width, A].

    regions: of these pairs. most: shares of a pattern that are kept of one prompt.
    """
    kept = PatternRows(pairs, n_heads, most, width)
    return [pattern_scores(model, pairs, regions, batch_size, kept=kept), kept.rows]

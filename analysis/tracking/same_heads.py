"""What a step keeps of its heads, and how they compare with those that the base has kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from analysis.heads.columns import columns
from analysis.heads.pattern_rows import Patterns
from analysis.heads.resampling import resample_weights
from analysis.heads.same import Kept, Same, by_chance, compare_heads
from analysis.models.graph import Graph
from analysis.records.record_files import read_kept
from analysis.tracking import distributed
from analysis.tracking.settings import TrackingSettings

log = logging.getLogger(__name__)


def keep(model: nn.Module, patterns: Patterns | None) -> Kept | None:
    """On rank 0, what heads are compared by; to be called by all ranks. None without patterns."""

    def of_model() -> Kept | None:
        if patterns is None or distributed.rank() != 0:
            return None
        return Kept(columns(model), patterns)

    return distributed.together(of_model)


def same_as_base(
    run: Path,
    step: int,
    graph: Graph,
    kept: Kept | None,
    groups: Sequence[int],
    settings: TrackingSettings,
) -> Same | None:
    """The heads of a step against those of step 0; None, with a warning, if they can't be.

    kept: of the step. groups: the cluster of each pair.
    """
    if kept is None:
        return None
    try:
        base = kept if step == 0 else read_kept(run)
        if base is None:
            raise ValueError("the record of step 0 keeps nothing of them; track it again")
        weights = resample_weights(groups, settings.resamples, settings.seed)
        layers = [layer for layer, _ in graph.heads]
        same = compare_heads(base, kept, layers, weights, groups)
    except ValueError as error:
        log.warning("the heads of step %d are not compared with the base's: %s", step, error)
        return None
    if step > 0:
        return same
    return replace(same, chance=by_chance(kept, layers))

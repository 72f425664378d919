"""Whether a head is still the head that it was: its figures against the base's.

A head is known by its place, and one that is retained there may have been rewritten. Two figures,
both 1 where nothing has changed:

    o_proj      cosine of its columns of the output projection   (analysis/heads/columns.py)
    attention   correlation of its attention patterns on the clean prompts, the mean over them
                                                                 (analysis/heads/pattern_rows.py)

A head is **changed** where one of them is below HALF beyond its error: the upper end of its 95 %
interval is. For attention that is a bootstrap over pairs with the resamples of the record; the
cosine is exact unless the columns were sketched. What different heads of one layer of the base have
in common is the level of chance, and is measured with the base.

Shape legend: A heads in all, P pairs, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from analysis.heads.columns import Columns, cosines, cosines_among
from analysis.heads.pattern_rows import Patterns, correlations, correlations_among
from analysis.heads.roles import mean_over_pairs
from analysis.intervals import Estimate, estimate_of_set, resamples_of

HALF = 0.5
FIGURES = ("o_proj", "attention")


@dataclass(frozen=True)
class Kept:
    """What is kept of a model to compare others with."""

    columns: Columns
    patterns: Patterns


@dataclass(frozen=True)
class Same:
    """The figures of one checkpoint against the base.

    o_proj, attention: value, low and high of each head, float32 [3, A]; NaN where undefined, and
    the ends where the pairs give no interval.  below: how many heads have a figure below HALF, with
    the interval of that.  chance: of the base, mean and 97.5 % point of each figure between
    different heads of one layer; NaN where no layer has two.
    """

    o_proj: torch.Tensor
    attention: torch.Tensor
    below: Estimate
    chance: dict[str, tuple[float, float]] | None = None

    @property
    def changed(self) -> torch.Tensor:
        """The heads that have changed: bool [A]."""
        return (self.o_proj[2] < HALF) | (self.attention[2] < HALF)


def compare_heads(
    base: Kept, now: Kept, layers: Sequence[int], weights: torch.Tensor, groups: Sequence[int]
) -> Same:
    """The heads of a model against those of the base, measured on the same pairs.

    layers: of the heads, [A]. weights: of the pairs in each resample, [1+R, P]. groups: the cluster
    of each pair.

    Raises:
        ValueError: the heads are of other sizes, or the patterns of other prompts.
    """
    o_proj = cosines(base.columns, now.columns)
    of_pairs = correlations(base.patterns, now.patterns, layers)
    means, ends = mean_over_pairs(of_pairs, weights.double(), torch.tensor(groups))
    below = ((means < HALF) | (o_proj[0] < HALF)).sum(1).double()
    return Same(
        o_proj=o_proj.float(),
        attention=torch.cat([means[:1], ends]).float(),
        below=estimate_of_set(resamples_of(below, len(set(groups))), 0, len(o_proj[0])),
    )


def by_chance(kept: Kept, layers: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Of each figure between different heads of one layer: mean and 97.5 % point.

    layers: of the heads, [A].
    """
    among = {
        "o_proj": cosines_among(kept.columns, layers),
        "attention": correlations_among(kept.patterns, layers),
    }
    return {name: _level(found[~found.isnan()]) for name, found in among.items()}


def _level(found: torch.Tensor) -> tuple[float, float]:
    if not len(found):
        return torch.nan, torch.nan
    return float(found.mean()), float(torch.quantile(found, 0.975))

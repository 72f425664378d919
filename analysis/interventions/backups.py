"""Backups: heads that the model leans on more when others are out of it.

The importance of a head is the sum over its edges out of |score|, in units of the metric, pair by
pair. It is measured twice in one model: as it is, and with a set of heads at its mean
(analysis/interventions/needed.py). A head that is not in the set is a backup if its importance
rises beyond the false-discovery rate (Benjamini-Hochberg over all other heads, one-sided, paired by
bootstrap over clusters of pairs). A score of the changed model is a derivative within it: it says
what that model would lose, not that the head makes good what is missing. A rise is an amount, so
there is none where the scores of the two do not add up (analysis/attribution/adding_up.py).

Shape legend: P pairs, A heads in all.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from analysis.attribution.adding_up import MOST, adds_up
from analysis.attribution.eap import attribute
from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.heads.resampling import resample_weights
from analysis.intervals import difference_p_values, discoveries, estimate, resamples_of
from analysis.interventions.needed import at_mean, mean_z
from analysis.interventions.operations import intervened
from analysis.models.graph import short_head_name
from analysis.models.preserve import preserved
from analysis.records.needed import Backup, Number

if TYPE_CHECKING:
    from torch import nn

    from analysis.attribution.edge_scores import EdgeScores
    from analysis.models.graph import Head
    from analysis.prompts.pairs import Pairs


class NoAmounts(ValueError):
    """Scores do not add up, so that how much an importance rises is not known."""


def backups_of(
    model: nn.Module,
    pairs: Pairs,
    heads: Sequence[Head],
    settings: Mapping[str, Any],
    batch_size: int = 8,
    q: float = 0.05,
) -> list[Backup]:
    """The backups of a set of heads, the largest rise first; none where pairs can't be resampled.

    settings: of a record, by the names of `attribute`; with `resamples` and `seed`. q: the
    false-discovery rate. The model is left as it was.

    Raises:
        NoAmounts: the scores do not add up, before or after.
        ValueError: anything that `attribute` refuses.
    """
    known = inspect.signature(attribute).parameters
    how = {name: value for name, value in settings.items() if name in known}
    how |= {"batch_size": batch_size}
    parts = proved(model, anatomy(model), only_heads=True)
    before = attribute(model, pairs, **how)
    with preserved(model):
        change, means = at_mean(parts, mean_z(parts, pairs, batch_size), heads)
    with intervened(model, change, means, parts):
        after = attribute(model, pairs, **how)
    _check_sums(before, after)
    weights = resample_weights(pairs.groups, int(settings["resamples"]), int(settings["seed"]))
    weights = resamples_of(weights, pairs.n_distinct).double()
    graph, rows = parts.graph, (weights @ importance(before), weights @ importance(after))
    others = torch.tensor([head not in set(heads) for head in graph.heads])
    p = difference_p_values(*rows, pairs.n_distinct)
    rise = rows[1] - rows[0]
    p = torch.where(rise[0] > 0, p / 2, 1 - p / 2)
    called = torch.zeros_like(others)
    called[others] = discoveries(p[others], q)
    found = [
        Backup(
            head=short_head_name(graph.head_names[index]),
            before=float(rows[0][0, index]),
            after=float(rows[1][0, index]),
            rise=Number.of(estimate(rise[:, index])),
            p_value=float(p[index]),
        )
        for index in (called & (rise[0] > 0)).nonzero().flatten().tolist()
    ]
    return sorted(found, key=lambda one: -(one.rise.value or 0.0))


def _check_sums(*both: EdgeScores) -> None:
    """That what the scores miss is a small part of the metric's change, the larger of the two.

    Where the set is all that the metric rests on there is next to no change without it, and next to
    nothing that scores could be wrong by.
    """
    missed, changes = zip(*(scores.missed for scores in both), strict=True)
    share = max(missed) / max(changes) if max(changes) else math.inf
    if not adds_up(share):
        raise NoAmounts(
            f"the scores miss {share:.0%} of the metric's change (at most {MOST:.0%}), so how much "
            "an importance rises is not known"
        )


def importance(scores: EdgeScores) -> torch.Tensor:
    """Of every head, the sum over its edges out of |score|: float64 [P, A]."""
    graph, size = scores.graph, scores.per_edge.abs().double()
    total = size.new_zeros(len(size), graph.n_sources).index_add_(1, graph.edges[:, 0], size)
    return total[:, graph.head_sources].cpu()

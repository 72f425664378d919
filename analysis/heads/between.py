"""The heads of two circuits of one graph side by side: their numbers, and both since their bases.

Circuit a and circuit b may be of two runs. `Change` (analysis/heads/changes.py) says what b has
that a has not; here are the numbers of that as a comparison shows them, and the question for two
trainings from one base: which heads did both gain (or lose) since step 0 of their own run, and
which only one of them?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from analysis.heads.changes import CHANGES, Change, Heads, jaccard
from analysis.intervals import Estimate, estimate_of_set

SETS = ("shared", "lost", "gained")
AS_CHANGES = {"shared": "retained", "lost": "pruned", "gained": "emergent"}  # SETS, of b since a
GROUPS = ("both", "only a", "only b")


@dataclass(frozen=True)
class Since:
    """Heads that a and b each gained (or lost) since their own base, by GROUPS.

    called: heads of `both` that are called in a and in b, of `only a` called in a, and so on.
    """

    masks: dict[str, torch.Tensor]
    called: dict[str, torch.Tensor]
    counts: dict[str, Estimate]
    jaccard: Estimate


def numbers_of(before: Heads, after: Heads, change: Change) -> dict[str, Estimate]:
    """What a and b have, share, and how alike they are; what is not known is left out."""
    n_heads = before.strength.shape[1]
    found = {
        "in a": estimate_of_set(before.inside.sum(1).double(), 0, n_heads),
        "in b": change.counts["in_circuit"],
        **{name: change.counts[AS_CHANGES[name]] for name in SETS},
        "jaccard": change.jaccard,
        "turnover": change.turnover,
        **({"excess turnover": change.excess_turnover} if change.is_tested else {}),
        "weighted overlap": change.overlap,
        "rank correlation": change.rank_correlation,
    }
    if math.isnan(change.overlap.value):  # importances that are none
        del found["weighted overlap"]
    return found


def since_bases(sides: Sequence[tuple[Heads, Heads, Change]]) -> dict[str, Since]:
    """Which heads a and b each gained and lost, by CHANGES.

    sides: of a and of b the heads of the base, those now, and the change between them.
    """
    found = {}
    for name in CHANGES:
        one, two = (
            (after.inside & ~before.inside) if name == "emergent" else before.inside & ~after.inside
            for before, after, _ in sides
        )
        called_a, called_b = (change.called[name] for *_, change in sides)
        masks = dict(zip(GROUPS, (one & two, one & ~two, two & ~one), strict=True))
        raw = {group: mask[0] for group, mask in masks.items()}
        calls = zip(GROUPS, (called_a & called_b, called_a, called_b), strict=True)
        found[name] = Since(
            masks=raw,
            called={group: raw[group] & call for group, call in calls},
            counts={
                group: estimate_of_set(mask.sum(1).double(), 0, mask.shape[1])
                for group, mask in masks.items()
            },
            jaccard=estimate_of_set(jaccard(one, two), 0, 1),
        )
    return found

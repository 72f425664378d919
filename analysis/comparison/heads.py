"""How the heads of two circuits differ, and what each gained and lost since its own base."""

from __future__ import annotations

import math

import torch

from analysis.circuits.circuit import head_importance, head_mask
from analysis.comparison.definitions import (
    GROUPS,
    SETS,
    HeadDifference,
    Since,
    Subject,
    bare_difference,
)
from analysis.heads.changes import CHANGES, FDR, Change, compare, effect, jaccard, overlap
from analysis.heads.widest_paths import by_destination, head_strengths
from analysis.intervals import bare, estimate_of_set, spearman
from analysis.records.record_files import read_records
from analysis.trajectories.trajectory import run_level

_NAMES = {"shared": "retained", "lost": "pruned", "gained": "emergent"}


def compare_heads(a: Subject, b: Subject, q: float = FDR) -> HeadDifference:
    """The heads of two circuits."""
    if a.record is None or b.record is None:
        return _bare_heads(a, b)
    before, after = a.record.heads, b.record.heads
    change: Change = compare(before, after, q)
    n_heads = before.strength.shape[1]
    tested = ("lost", "gained") if change.is_tested else ()
    numbers = {
        "in a": estimate_of_set(before.inside.sum(1).double(), 0, n_heads),
        "in b": change.counts["in_circuit"],
        **{name: change.counts[_NAMES[name]] for name in SETS},
        "jaccard": change.jaccard,
        "turnover": change.turnover,
        **({"excess turnover": change.excess_turnover} if tested else {}),
        "weighted overlap": change.overlap,
        "rank correlation": change.rank_correlation,
    }
    if math.isnan(change.overlap.value):  # importances that are none
        del numbers["weighted overlap"]
    return HeadDifference(
        masks={name: change.masks[_NAMES[name]] for name in SETS},
        numbers=numbers,
        null_turnover=change.null_turnover,
        null={name: change.null[_NAMES[name]] for name in tested},
        inclusion=torch.stack([change.inclusion_before, change.inclusion_after]),
        called={name: change.called[_NAMES[name]] for name in tested},
        p_value=change.p_value,
        importance=torch.stack([before.importance[0], after.importance[0]]),
        effect=torch.stack([change.effect, change.effect_low, change.effect_high]),
    )


def members(subject: Subject) -> torch.Tensor:
    """Heads of a circuit, from its edges or a file's nodes: bool [A]."""
    if subject.file is not None:
        return subject.file.heads
    return head_mask(subject.graph, subject.edges)


def importance_of(subject: Subject) -> torch.Tensor:
    """Share of each head in |mean score|, or in |score| of a file's nodes: float [A].

    NaN where a file has no scores, and where those of a record do not add up.
    """
    if subject.file is not None and subject.file.scores is None:
        return subject.file.importance.float()
    if subject.record is not None and not subject.record.adds_up:
        return torch.full_like(subject.record.importance, math.nan)
    return head_importance(subject.graph, subject.mean[None], subject.edges)


def _strengths(subject: Subject) -> torch.Tensor:
    """Entry strengths from mean scores, or a file's node scores: float [1, A]."""
    file, graph = subject.file, subject.graph
    if file is not None and file.node_scores is not None:
        return file.node_scores.abs().float()[None]
    return head_strengths(graph, by_destination(graph, subject.mean.abs()[None]))


def _bare_heads(a: Subject, b: Subject) -> HeadDifference:
    found = bare_difference(*(members(s) for s in (a, b)))
    importance = torch.stack([importance_of(s) for s in (a, b)])
    if a.graph.heads and all(s.file is None or s.file.has_scores for s in (a, b)):
        strengths = (_strengths(s).numpy() for s in (a, b))
        if not math.isnan(shared := float(overlap(importance[0], importance[1]))):
            found.numbers["weighted overlap"] = bare(shared)
        found.numbers["rank correlation"] = bare(float(spearman(*strengths)[0]))
    nothing = torch.full_like(importance[0], math.nan)
    effects = torch.stack([effect(importance[0], importance[1]), nothing, nothing])
    return HeadDifference(
        **vars(found), called={}, p_value=nothing, importance=importance, effect=effects
    )


def compare_bases(a: Subject, b: Subject, q: float = FDR) -> dict[str, Since] | None:
    """Which heads a and b each gained and lost since step 0 of their own run."""
    sides = []
    for subject in (a, b):
        record, base = subject.record, subject.base
        if record is None or base is None or record.step == 0:
            return None
        change = compare(base.heads, record.heads, q)
        if records := read_records(subject.source):  # called as in the report of the run
            change = change.at(run_level(records, q))
        sides.append((base.heads, record.heads, change))
    found = {}
    for name in CHANGES:
        rows = [
            (after.inside & ~before.inside) if name == "emergent" else before.inside & ~after.inside
            for before, after, _ in sides
        ]
        one, two = rows
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

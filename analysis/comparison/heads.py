"""How the heads of two circuits differ, and what each gained and lost since its own base."""

from __future__ import annotations

import math

import torch

from analysis.circuits.circuit import head_importance, head_mask
from analysis.comparison.definitions import HeadDifference, Subject, bare_difference
from analysis.heads.between import AS_CHANGES, SETS, Since, numbers_of, since_bases
from analysis.heads.changes import FDR, Change, compare, effect, overlap
from analysis.heads.widest_paths import by_destination, head_strengths
from analysis.intervals import bare, spearman
from analysis.records.record_files import read_records
from analysis.trajectories.trajectory import run_level


def compare_heads(a: Subject, b: Subject, q: float = FDR) -> HeadDifference:
    """The heads of two circuits."""
    if a.record is None or b.record is None:
        return _bare_heads(a, b)
    before, after = a.record.heads, b.record.heads
    change: Change = compare(before, after, q)
    tested = ("lost", "gained") if change.is_tested else ()
    return HeadDifference(
        masks={name: change.masks[AS_CHANGES[name]] for name in SETS},
        numbers=numbers_of(before, after, change),
        null_turnover=change.null_turnover,
        null={name: change.null[AS_CHANGES[name]] for name in tested},
        inclusion=torch.stack([change.inclusion_before, change.inclusion_after]),
        called={name: change.called[AS_CHANGES[name]] for name in tested},
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
    return since_bases(sides)

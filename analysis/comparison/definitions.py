"""What two circuits of one graph share: heads, edges, layers; all definitions of a comparison.

Of circuit a and circuit b, read as `a -> b`, a head or an edge is

    lost       in a's circuit, not in b's         (pruned, where a is the base)
    shared     in both                            (retained)
    gained     in b's circuit, not in a's         (emergent)

Heads are compared by `analysis.heads.changes.compare`: which changes are called, Jaccard, turnover
and its null, weighted overlap, rank correlation, effect E. Edges have the same raw sets, Jaccard,
turnover and null, but are not called: a gained edge comes with the share of the resamples that hold
it in a and in b, its inclusion. Intervals are 95 % bootstraps over pairs (analysis/intervals.py) in
which a and b are resampled alike. Noise alone makes edges differ too, and no calls hold it back
there: judge them by their excess turnover, which is turnover less that of two resamples of one
circuit.

A graph file holds no scores of single pairs. What is compared with one has no interval, no null and
no calls: the ends of its estimates are NaN. Importance and entry strengths, of both sides, are then
read off |mean score| instead of the mean |score|.

Against their bases: of the heads that a and b each gained (or lost) since step 0 of their own run,
which both did and which only one. That is the question for two trainings from one base.

Shape legend: R resamples, E edges, L layers, H heads, M members, which are heads or edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from analysis.circuits.circuit import head_importance, head_mask
from analysis.heads.changes import CHANGES, FDR, Change, compare, effect, jaccard, overlap
from analysis.heads.resampling import CHUNK, Selection, largest, resample_weights
from analysis.heads.widest_paths import by_destination, edge_strengths, head_strengths
from analysis.intervals import Estimate, estimate, estimate_of_set, spearman
from analysis.models.graph import Graph
from analysis.records.record import Record, check_comparable

SETS = ("shared", "lost", "gained")
GROUPS = ("both", "only a", "only b")
_NAMES = {"shared": "retained", "lost": "pruned", "gained": "emergent"}


@dataclass(frozen=True)
class Subject:
    """One circuit that is compared.

    name: a to h, its key on the command line.  source: the run's directory, or the graph file.
    edges: bool [E];  mean: mean scores float [E].
    record: None for a graph file.  base: the record of step 0 of the same run, if there is one.
    """

    name: str
    label: str
    source: Path
    graph: Graph
    edges: torch.Tensor
    mean: torch.Tensor
    record: Record | None = None
    base: Record | None = None


@dataclass(frozen=True)
class Difference:
    """How the members of two circuits differ; M heads or M edges.

    masks: the raw sets, bool [M], by SETS.
    numbers: in a, in b, the sets, jaccard, turnover, excess turnover; of heads also weighted
        overlap and rank correlation. Without resamples their ends are NaN, and excess is left out.
    null_turnover: mean turnover between two resamples of one circuit, or NaN.
    null: of gained and lost, what two resamples of a alone give, as mean and 97.5 % point.
    inclusion: share of the resamples of a and of b that hold a member, [2, M]; NaN without.
    """

    masks: dict[str, torch.Tensor]
    numbers: dict[str, Estimate]
    null_turnover: float
    null: dict[str, tuple[float, float]]
    inclusion: torch.Tensor


@dataclass(frozen=True)
class HeadDifference(Difference):
    """called: of gained and lost, bool [M], empty without resamples.  p_value: [M] or NaN.
    importance: in a and in b, [2, M].  effect: E with its interval, [3, M]."""

    called: dict[str, torch.Tensor]
    p_value: torch.Tensor
    importance: torch.Tensor
    effect: torch.Tensor


@dataclass(frozen=True)
class Since:
    """Heads that a and b each gained (or lost) since their own base, by GROUPS.

    called: heads of `both` that are called in a and in b, of `only a` called in a, and so on.
    """

    masks: dict[str, torch.Tensor]
    called: dict[str, torch.Tensor]
    counts: dict[str, Estimate]
    jaccard: Estimate


@dataclass(frozen=True)
class Comparison:
    """`a -> b`. bases: by CHANGES, None unless both have a base of their own that they left."""

    a: Subject
    b: Subject
    heads: HeadDifference
    edges: Difference
    bases: dict[str, Since] | None


@dataclass(frozen=True)
class Cell:
    """The circuit of one subject in the model of another; empty, with the reason, without a model.

    faithfulness: of the circuit.  below_own: that less the faithfulness of the model's own circuit,
    on the same pairs.  random: faithfulness of a random circuit of `random_edges` edges.
    """

    circuit: str
    model: str
    reason: str | None = None
    faithfulness: Estimate | None = None
    below_own: Estimate | None = None
    random: Estimate | None = None
    random_edges: int = 0


@dataclass(frozen=True)
class Profile:
    """Of each layer: heads in the circuit, and mean importance of the layer's heads: [L] each."""

    heads: list[Estimate]
    importance: list[Estimate]


def bare(value: float) -> Estimate:
    """A number without an interval."""
    return Estimate(value, math.nan, math.nan)


def check_pair(a: Subject, b: Subject) -> None:
    """Raise ValueError unless two circuits measure the same thing."""
    if a.record is not None and b.record is not None:
        try:
            check_comparable(a.record, b.record)
        except ValueError as error:
            raise ValueError(f"{a.name}={a.label} and {b.name}={b.label}: {error}") from error
    elif a.graph != b.graph:
        raise ValueError(
            f"{a.name}={a.label} is a circuit of {a.graph} and {b.name}={b.label} of {b.graph}, so "
            "they can't be compared; attribute both on one model with the same kv"
        )


def compare_heads(a: Subject, b: Subject, q: float = FDR) -> HeadDifference:
    """The heads of two circuits."""
    if a.record is None or b.record is None:
        return _bare_heads(a, b)
    before, after = a.record.heads, b.record.heads
    change: Change = compare(before, after, q)
    n_heads = before.strength.shape[1]
    numbers = {
        "in a": estimate_of_set(before.inside.sum(1).double(), 0, n_heads),
        "in b": change.counts["in_circuit"],
        **{name: change.counts[_NAMES[name]] for name in SETS},
        "jaccard": change.jaccard,
        "turnover": change.turnover,
        "excess turnover": change.excess_turnover,
        "weighted overlap": change.overlap,
        "rank correlation": change.rank_correlation,
    }
    return HeadDifference(
        masks={name: change.masks[_NAMES[name]] for name in SETS},
        numbers=numbers,
        null_turnover=change.null_turnover,
        null={name: change.null[_NAMES[name]] for name in ("lost", "gained")},
        inclusion=torch.stack([change.inclusion_before, change.inclusion_after]),
        called={name: change.called[_NAMES[name]] for name in ("lost", "gained")},
        p_value=change.p_value,
        importance=torch.stack([before.importance[0], after.importance[0]]),
        effect=torch.stack([change.effect, change.effect_low, change.effect_high]),
    )


def _sets(a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"shared": a & b, "lost": a & ~b, "gained": b & ~a}


def _bare(a: torch.Tensor, b: torch.Tensor) -> Difference:
    """Of memberships [M] without resamples."""
    masks = _sets(a, b)
    counts = {"in a": a, "in b": b, **masks}
    numbers = {name: bare(float(mask.sum())) for name, mask in counts.items()}
    likeness = float(jaccard(a, b))
    numbers |= {"jaccard": bare(likeness), "turnover": bare(1 - likeness)}
    return Difference(masks, numbers, math.nan, {}, torch.full((2, len(a)), math.nan))


def _bare_heads(a: Subject, b: Subject) -> HeadDifference:
    found = _bare(*(head_mask(s.graph, s.edges) for s in (a, b)))
    importance = torch.stack([head_importance(s.graph, s.mean[None], s.edges) for s in (a, b)])
    strengths = [
        head_strengths(s.graph, by_destination(s.graph, s.mean.abs()[None])) for s in (a, b)
    ]
    found.numbers["weighted overlap"] = bare(float(overlap(importance[0], importance[1])))
    found.numbers["rank correlation"] = bare(float(spearman(*(s.numpy() for s in strengths))[0]))
    nothing = torch.full_like(importance[0], math.nan)
    effects = torch.stack([effect(importance[0], importance[1]), nothing, nothing])
    return HeadDifference(
        **vars(found), called={}, p_value=nothing, importance=importance, effect=effects
    )


def edge_memberships(
    record: Record, per_pair: torch.Tensor, show_progress: bool = False
) -> Iterator[torch.Tensor]:
    """The circuits of the pairs and of R resamples of them, in chunks of rows: bool [rows, E].

    In the order of `analysis.heads.widest_paths.by_destination`; the resamples are those of the
    record.
    """
    graph, settings = record.graph, record.settings
    selection = Selection(**record.selection)
    scores = by_destination(graph, per_pair.float())
    weights = resample_weights(len(scores), settings["resamples"], settings["seed"])
    bar = tqdm(total=len(weights), desc="edges", disable=None if show_progress else True)
    with bar:
        for rows in weights.split(CHUNK):
            mean = rows @ scores
            cut = largest(mean.abs(), [selection.top_n])[:, 0].clamp_min(selection.tau or 0.0)
            w = mean.abs() if selection.tau is None else mean.clamp_min(0)
            yield edge_strengths(graph, w) >= cut.clamp_min(torch.finfo(w.dtype).tiny)[:, None]
            bar.update(len(rows))


class _Neighbours:
    """Overlap of each resample with the one before it, from chunks of rows: the null."""

    def __init__(self) -> None:
        self.first = self.last = torch.empty(0)
        self.sizes: list[torch.Tensor] = []
        self.common: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        """Take the next resamples, bool [rows, E]."""
        if not len(rows):
            return
        if not self.sizes:
            self.first, before = rows[0], rows[:-1]
            self.common.append((rows[1:] & before).sum(1))
        else:
            self.common.append((rows & torch.cat([self.last[None], rows[:-1]])).sum(1))
        self.sizes.append(rows.sum(1))
        self.last = rows[-1]

    def null(self) -> tuple[float, dict[str, tuple[float, float]]]:
        """Mean turnover, and lost and gained as mean and 97.5 % point."""
        size = torch.cat(self.sizes).double()
        common = torch.cat([(self.first & self.last).sum()[None], *self.common]).double()
        before = size.roll(1)
        turnover = 1 - torch.where(
            size + before > 0, common / (size + before - common).clamp_min(1), 1.0
        )
        chances = {"lost": before - common, "gained": size - common}
        return float(turnover.mean()), {
            name: (float(chance.mean()), float(torch.quantile(chance, 0.975)))
            for name, chance in chances.items()
        }


def compare_edges(
    a: Subject,
    b: Subject,
    per_pair: tuple[torch.Tensor, torch.Tensor] | None = None,
    show_progress: bool = False,
) -> Difference:
    """The edges of two circuits; `per_pair` are the scores [pairs, E] of two records."""
    if a.record is None or b.record is None or per_pair is None:
        return _bare(a.edges, b.edges)
    n_edges = a.graph.n_edges
    held = torch.zeros(2, n_edges)
    nulls = _Neighbours(), _Neighbours()
    sizes: list[torch.Tensor] = []
    both = zip(
        edge_memberships(a.record, per_pair[0], show_progress),
        edge_memberships(b.record, per_pair[1]),
        strict=True,
    )
    for index, rows in enumerate(both):
        sizes.append(torch.stack([rows[0].sum(1), rows[1].sum(1), (rows[0] & rows[1]).sum(1)]))
        for side in (0, 1):
            resamples = rows[side][1:] if index == 0 else rows[side]  # row 0 is the estimate
            held[side] += resamples.sum(0)
            nulls[side].add(resamples)
    in_a, in_b, shared = torch.cat(sizes, 1).double()
    order = torch.argsort(a.graph.edges[:, 1], stable=True)
    inclusion = torch.empty_like(held)
    inclusion[:, order] = held / (len(in_a) - 1)
    masks = _sets(a.edges, b.edges)
    tables = {
        "in a": in_a,
        "in b": in_b,
        "shared": shared,
        "lost": in_a - shared,
        "gained": in_b - shared,
    }
    numbers = {name: estimate_of_set(table, 0, n_edges) for name, table in tables.items()}
    union = in_a + in_b - shared
    likeness = estimate_of_set(torch.where(union > 0, shared / union.clamp_min(1), 1.0), 0, 1)
    turnover = Estimate(1 - likeness.value, 1 - likeness.high, 1 - likeness.low)
    (chance_a, null), (chance_b, _) = (neighbours.null() for neighbours in nulls)
    chance = (chance_a + chance_b) / 2
    numbers |= {"jaccard": likeness, "turnover": turnover}
    numbers["excess turnover"] = turnover.minus(chance)
    return Difference(masks, numbers, chance, null, inclusion)


def compare_bases(a: Subject, b: Subject, q: float = FDR) -> dict[str, Since] | None:
    """Which heads a and b each gained and lost since step 0 of their own run."""
    sides = []
    for subject in (a, b):
        record, base = subject.record, subject.base
        if record is None or base is None or record.step == 0:
            return None
        sides.append((base.heads, record.heads, compare(base.heads, record.heads, q)))
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


def compare_subjects(
    a: Subject,
    b: Subject,
    q: float = FDR,
    per_pair: tuple[torch.Tensor, torch.Tensor] | None = None,
    show_progress: bool = False,
) -> Comparison:
    """Everything about two circuits.

    Raises:
        ValueError: they do not measure the same thing.
    """
    check_pair(a, b)
    return Comparison(
        a,
        b,
        compare_heads(a, b, q),
        compare_edges(a, b, per_pair, show_progress),
        compare_bases(a, b, q),
    )


def profile(subject: Subject) -> Profile:
    """Heads and importance by layer."""
    graph = subject.graph
    size = (graph.n_layers, graph.n_heads)
    if subject.record is None:
        heads = head_mask(graph, subject.edges).view(size).sum(1).tolist()
        shares = head_importance(graph, subject.mean[None], subject.edges).view(size).mean(1)
        return Profile([bare(float(n)) for n in heads], [bare(x) for x in shares.tolist()])
    found = subject.record.heads
    counts = found.inside.unflatten(1, size).sum(2).double()
    means = found.importance.unflatten(1, size).mean(2)
    return Profile(
        [estimate_of_set(counts[:, layer], 0, graph.n_heads) for layer in range(graph.n_layers)],
        [estimate(means[:, layer]) for layer in range(graph.n_layers)],
    )

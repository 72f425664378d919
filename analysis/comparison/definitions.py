"""What two circuits of one graph share: heads, edges, layers; all definitions of a comparison.

Of circuit a and circuit b, read as `a -> b`, a head or an edge is

    lost       in a's circuit, not in b's         (pruned, where a is the base)
    shared     in both                            (retained)
    gained     in b's circuit, not in a's         (emergent)

Heads are compared by `analysis.heads.changes.compare`, which also says which changes are called.
Edges have the same sets, Jaccard, turnover and chance level, and each edge its inclusion: the share
of the resamples of a, and of b, whose circuit holds it. Edges are never called, and noise makes
them differ even between two resamples of one circuit, so look at their excess turnover: the
turnover beyond that of two such resamples.

Intervals are 95 % bootstraps over pairs (analysis/intervals.py); resample i of a and resample i of
b draw the same pairs.

A graph file holds mean scores only, not those of single pairs. A comparison with one has no
intervals, no chance level and no calls: the ends of its estimates are NaN. For both sides,
importance and entry strengths then come from |mean score| instead of the mean of |score|.

Against their bases: which heads did both a and b gain (or lose) since step 0 of their own run, and
which only one of them? That is the question for two trainings from one base.

Shape legend: R resamples, E edges, L layers, A heads in all, M members, which are heads or edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from analysis.circuits.graph_contents import GraphFile
from analysis.heads.between import Since
from analysis.heads.changes import jaccard
from analysis.intervals import FEWEST, Estimate, bare
from analysis.models.graph import Graph
from analysis.records.record import Record, check_comparable


@dataclass(frozen=True)
class Subject:
    """One circuit that is compared.

    name: a to h, its key on the command line.  source: the run's directory, or the graph file.
    edges: bool [E];  mean: mean scores float [E], NaN where a file has none.
    record: None for a graph file.  base: the record of step 0 of the same run, if there is one.
    file: what a graph file says.  shared: it has a k and a v edge for every query head, and the
    circuit here is on a graph that shares them.
    """

    name: str
    label: str
    source: Path
    graph: Graph
    edges: torch.Tensor
    mean: torch.Tensor
    record: Record | None = None
    base: Record | None = None
    file: GraphFile | None = None
    shared: bool = False

    @property
    def can_be_resampled(self) -> bool:
        """Whether scores of single pairs are known, of two different ones at least."""
        return self.record is not None and self.record.distinct >= FEWEST


@dataclass(frozen=True)
class Difference:
    """How the members of two circuits differ; M heads or M edges.

    masks: the raw sets, bool [M], by SETS.
    numbers: in a, in b, the sets, jaccard, turnover, excess turnover; of heads also weighted
        overlap and rank correlation. Without resamples their ends are NaN, and excess is left out.
    null_turnover: mean turnover between two resamples of one circuit, or NaN.
    null: of gained and lost, what two resamples of a give, as mean and 97.5 % point.
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
            "they have no edges in common; attribute both on one model with the same kv"
        )


def sets(a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    """The raw sets of two memberships [M], by SETS."""
    return {"shared": a & b, "lost": a & ~b, "gained": b & ~a}


def bare_difference(a: torch.Tensor, b: torch.Tensor) -> Difference:
    """How memberships [M] without resamples differ."""
    masks = sets(a, b)
    counts = {"in a": a, "in b": b, **masks}
    numbers = {name: bare(float(mask.sum())) for name, mask in counts.items()}
    likeness = float(jaccard(a, b))
    numbers |= {"jaccard": bare(likeness), "turnover": bare(1 - likeness)}
    return Difference(masks, numbers, math.nan, {}, torch.full((2, len(a)), math.nan))

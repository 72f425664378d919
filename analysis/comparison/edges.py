"""How the edges of two circuits differ, with the circuits of the resamples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tqdm import tqdm

from analysis.comparison.definitions import Difference, Subject, bare_difference, sets
from analysis.heads.resampling import CHUNK, Selection
from analysis.heads.widest_paths import by_destination, edge_strengths
from analysis.intervals import Estimate, estimate_of_set
from analysis.records.record import Record


def edge_memberships(
    record: Record, per_pair: torch.Tensor, show_progress: bool = False
) -> Iterator[torch.Tensor]:
    """The circuits of the pairs and of R resamples of them, in chunks of rows: bool [rows, E].

    In the order of `analysis.heads.widest_paths.by_destination`; the resamples are those of the
    record.
    """
    graph, weights = record.graph, record.weights
    selection = Selection(**record.selection)
    scores = by_destination(graph, per_pair.float())
    bar = tqdm(total=len(weights), desc="edges", disable=None if show_progress else True)
    with bar:
        cuts = record.resampled.threshold.split(CHUNK)
        for rows, cut in zip(weights.split(CHUNK), cuts, strict=True):
            mean = rows @ scores
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
        return bare_difference(a.edges, b.edges)
    if not (a.can_be_resampled and b.can_be_resampled):
        return bare_difference(a.edges, b.edges)
    # one pass over the resamples in chunks: sizes of the sets, inclusion, and the null
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
    # back from the order of the sweep to that of graph.edges
    order = torch.argsort(a.graph.edges[:, 1], stable=True)
    inclusion = torch.empty_like(held)
    inclusion[:, order] = held / (len(in_a) - 1)
    # the numbers with their intervals, and turnover beyond that of two resamples
    masks = sets(a.edges, b.edges)
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

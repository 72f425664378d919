"""The bootstrap over pairs: which heads the circuits of resampled pairs hold, and how strongly.

Row 0 of every table comes from the mean scores over the pairs themselves, rows 1 .. R from means
over pairs drawn with replacement. Pairs that share a prompt are drawn together: what is drawn is
clusters (analysis/prompts/clusters.py). The draws depend only on the clusters and the seed, so all
checkpoints share them, and two checkpoints are compared row by row. Two different rows of one
checkpoint show how much the numbers move when only the pairs change.

Cost: two products [rows, pairs] x [pairs, E] and some sweeps over [rows, E], in chunks of rows;
`headlab bench part=bootstrap` times it.

Shape legend: P pairs, E edges, R resamples, A heads in all, K sizes of the sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from analysis.heads.widest_paths import (
    HeadPaths,
    by_destination,
    edge_strengths,
    head_paths,
    head_strengths,
)
from analysis.models.graph import Graph

WIDE = ("strength", "signed", "threshold", "sweep")  # the tables of Wide
FURTHER = 1_000_003  # added to the seed for the draws of further pairs, which are their own
CHUNK = 32  # rows at a time: bounds memory at a few tables of 32 x E
SWEEP = (0.25, 0.5, 1.0, 2.0, 4.0)  # sizes of the sensitivity sweep, as multiples of the circuit's


@dataclass(frozen=True)
class Selection:
    """How a circuit is cut out of scores: the `top_n` edges by |score|, then pruned.

    tau: keep of them only the edges whose signed score is at least this, in units of the metric
        (the paper's simplification); None keeps all.
    """

    top_n: int
    tau: float | None = None


@dataclass(frozen=True)
class Resampled:
    """Heads of the circuits of the pairs (row 0) and of R resamples of them (rows 1 .. R).

    strength, signed: entry strengths (analysis/heads/widest_paths.py) by |score| and by score,
    [1+R, A]. importance, out_degree, in_degree: of the heads in the circuits, [1+R, A].
    threshold: strength from which on an edge is in the circuit, [1+R]; infinity where there is no
    circuit. sweep: the same for circuits of SWEEP times as many edges, [1+R, K].
    """

    strength: torch.Tensor
    signed: torch.Tensor
    importance: torch.Tensor
    out_degree: torch.Tensor
    in_degree: torch.Tensor
    threshold: torch.Tensor
    sweep: torch.Tensor

    @property
    def without_circuit(self) -> Resampled:
        """The same entry strengths, and no circuit of any size."""
        nothing = ("importance", "out_degree", "in_degree")
        return replace(
            self,
            **{name: torch.zeros_like(getattr(self, name)) for name in nothing},
            **{
                name: getattr(self, name).new_full((), torch.inf).expand_as(getattr(self, name))
                for name in ("threshold", "sweep")
            },
        )


@dataclass(frozen=True)
class Wide:
    """The heads of a base over its pairs and `further` more: tables that `Resampled` names so too.

    Row r is of the same draw of the pairs as in all checkpoints, with a draw of the further ones,
    so that noise which the checkpoints share still cancels.
    """

    further: int
    strength: torch.Tensor
    signed: torch.Tensor
    threshold: torch.Tensor
    sweep: torch.Tensor


def resample_weights(groups: Sequence[int], resamples: int, seed: int) -> torch.Tensor:
    """Share of each pair in each row's mean: float [1+R, P], row 0 uniform.

    groups: for each pair the number of its cluster, from 0; as many clusters as there are are drawn
    in each row, each with all its pairs.
    """
    of_pair, generator = torch.tensor(groups), torch.Generator().manual_seed(seed)
    n = int(of_pair.max()) + 1
    drawn = torch.randint(n, (resamples, n), generator=generator)
    counts = torch.zeros(resamples, n).scatter_add_(1, drawn, torch.ones(drawn.shape))
    rows = torch.cat([torch.ones(1, n), counts])[:, of_pair]
    return rows / rows.sum(1, keepdim=True)


def sweep_sizes(graph: Graph, top_n: int) -> list[int]:
    """Edges of the circuits of the sweep: [K]."""
    return [min(graph.n_edges, max(1, round(factor * top_n))) for factor in SWEEP]


def largest(values: torch.Tensor, ranks: list[int]) -> torch.Tensor:
    """The n-th largest of each row, for each n of `ranks`: [rows, E] -> [rows, len(ranks)]."""
    rest, found = values.numpy(), {}
    for rank in sorted(set(ranks), reverse=True):  # each among those that the one before left
        place = rest.shape[1] - rank
        rest = np.partition(rest, place, axis=1)[:, place:]
        found[rank] = rest[:, 0]
    return torch.from_numpy(np.stack([found[rank] for rank in ranks], 1))


def resample_heads(
    graph: Graph,
    per_pair: torch.Tensor,
    selection: Selection,
    resamples: int,
    seed: int,
    show_progress: bool = False,
    groups: Sequence[int] | None = None,
    sizes: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> Resampled:
    """The heads of the circuits of the pairs and of R resamples of them.

    graph: of the model. per_pair: scores float [P, E], in the order of graph.edges. selection: how
    each circuit is cut. resamples: R. seed: of the draws. show_progress: a bar, on a terminal.
    groups: the cluster of each pair; None: no two pairs share a prompt.
    sizes: edges of the circuit of each row, int64 [1+R]; selection.top_n in all rows for None.
    weights: of the pairs in each row, float [1+R, P]; None: those of `resample_weights`.
    """
    scores = by_destination(graph, per_pair.float())
    absolute = scores.abs()
    found: list[tuple[torch.Tensor, ...]] = []
    if weights is None:
        groups = range(len(scores)) if groups is None else groups
        weights = resample_weights(groups, resamples, seed)
    if sizes is None:
        sizes = torch.full((len(weights),), selection.top_n)
    bar = tqdm(total=len(weights), desc="bootstrap", disable=None if show_progress else True)
    with bar:
        for rows, edges in zip(weights.split(CHUNK), sizes.split(CHUNK), strict=True):
            mean = rows @ scores
            size, kept = mean.abs(), mean.clamp_min(0)
            cuts = _cuts(graph, size, edges)
            paths = _paths(graph, size, kept, rows @ absolute, cuts[:, 0], selection.tau)
            strength = paths.strength if selection.tau is None else head_strengths(graph, size)
            signed = paths.strength if selection.tau is not None else head_strengths(graph, kept)
            threshold = cuts[:, 0].clamp_min(selection.tau or 0.0)
            degrees = (paths.out_degree.to(torch.int16), paths.in_degree.to(torch.int16))
            found.append((strength, signed, paths.importance, *degrees, threshold, cuts[:, 1:]))
            bar.update(len(rows))
    return Resampled(*(torch.cat(column) for column in zip(*found, strict=True)))


def resample_wide(
    graph: Graph,
    per_pair: torch.Tensor,
    further: torch.Tensor,
    selection: Selection,
    resamples: int,
    seed: int,
    groups: tuple[Sequence[int], Sequence[int]] | None = None,
    sizes: torch.Tensor | None = None,
) -> Wide:
    """The heads of a base over its pairs and further ones.

    further: their scores [M, E]. groups: the clusters of the pairs, and of the further ones. The
    rest as in `resample_heads`.
    """
    n, m = len(per_pair), len(further)
    of_pairs, of_further = (range(n), range(m)) if groups is None else groups
    drawn = (
        resample_weights(of_pairs, resamples, seed) * (n / (n + m)),
        resample_weights(of_further, resamples, seed + FURTHER) * (m / (n + m)),
    )
    scores, weights = torch.cat([per_pair, further]), torch.cat(drawn, 1)
    found = resample_heads(graph, scores, selection, resamples, seed, sizes=sizes, weights=weights)
    return Wide(m, *(getattr(found, name) for name in WIDE))


def _cuts(graph: Graph, size: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """From which |score| on an edge is in the circuit of each row, and in those of its sweep.

    size: |score| [rows, E]. edges: of the circuit of each row [rows]. -> [rows, 1+K].
    """
    found = size.new_empty(len(size), 1 + len(SWEEP))
    for top_n in edges.unique().tolist():
        rows = edges == top_n
        found[rows] = largest(size[rows], [top_n, *sweep_sizes(graph, top_n)])
    return found


def _paths(
    graph: Graph,
    size: torch.Tensor,
    kept: torch.Tensor,
    weight: torch.Tensor,
    cut: torch.Tensor,
    tau: float | None,
) -> HeadPaths:
    if tau is None:
        return head_paths(graph, size, weight, cut)
    return head_paths(graph, kept, weight, cut.clamp_min(tau))


def select(graph: Graph, mean: torch.Tensor, selection: Selection) -> torch.Tensor:
    """The circuit of mean scores: [E] in the order of graph.edges -> which edges are in, bool [E].

    It has the heads of row 0 of `resample_heads`. Edges that tie at the threshold are all in, so
    there may be more than `top_n` before pruning.
    """
    scores = by_destination(graph, mean.float()[None])
    cut = largest(scores.abs(), [selection.top_n])[:, 0].clamp_min(selection.tau or 0.0)
    w = scores.abs() if selection.tau is None else scores.clamp_min(0)
    inside = edge_strengths(graph, w) >= cut.clamp_min(torch.finfo(w.dtype).tiny)[:, None]
    order = torch.argsort(graph.edges[:, 1], stable=True)
    return torch.zeros_like(inside[0]).index_put((order,), inside[0])

"""From the scores of a checkpoint to its circuit, what it keeps, and how far that is known.

The circuit is cut out of the mean scores of all pairs. What is said to be kept, and the size of the
smallest faithful circuit, come from circuits that are cross-fitted (analysis/circuits/halves.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from analysis.attribution.edge_scores import EdgeScores
from analysis.circuits.circuit import Circuit, edge_budget
from analysis.circuits.faithfulness import CircuitEvaluation, answer_gap, evaluate_distinct
from analysis.circuits.halves import halves
from analysis.circuits.smallest import scan_sizes
from analysis.heads.resampling import Selection, resample_weights, select
from analysis.prompts.pairs import Pairs
from analysis.tracking import distributed
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.sharing import SharedPairs


@dataclass(frozen=True)
class FoundCircuit:
    """A circuit, how it was cut out of the scores, and what it keeps.

    edges: bool [E].
    held_out: the metric under a circuit of the same size whose edges the other half of the pairs
    ranked, [pairs]; None where the pairs have no halves.
    sizes: edges before pruning in each resample of the pairs, int64 [1+R]; None where the size is
    given.
    gap_metric: in what it is told whether the model shows the behaviour at all; None where nothing
    tells it. gap: between corrupted and clean prompts in that, [pairs], NaN of a pair that has
    none; None where it is the metric's own.
    """

    selection: Selection
    edges: torch.Tensor
    evaluation: CircuitEvaluation
    held_out: torch.Tensor | None = None
    sizes: torch.Tensor | None = None
    gap_metric: str | None = None
    gap: torch.Tensor | None = None


class CircuitFinder:
    """Finds the circuits of one run. `find` is called by all ranks together."""

    def __init__(self, pairs: Pairs, settings: TrackingSettings, shared: SharedPairs) -> None:
        self._pairs, self._settings, self._shared = pairs, settings, shared
        self._half = halves(pairs.groups, settings.seed)

    def find(self, model: nn.Module, scores: EdgeScores) -> FoundCircuit:
        """The circuit that the settings ask for, and what it keeps."""
        s, graph, per_edge = self._settings, scores.graph, scores.per_edge.float()
        mean, others = per_edge.mean(0), self._ranked_by_others(per_edge)

        def cut(ranking: torch.Tensor, size: int) -> Circuit:
            return Circuit(graph, select(graph, ranking, Selection(size, s.tau)))

        def crossed(sizes: Sequence[int]) -> list[CircuitEvaluation]:
            return self._evaluate(model, [[cut(each, size) for size in sizes] for each in others])

        sizes = None
        if s.faithful is None:
            size = edge_budget(graph, s.top_n, s.fraction)
        else:
            weights = resample_weights(self._pairs.groups, s.resamples, s.seed)
            scan = scan_sizes(graph.n_edges, s.faithful, weights, crossed)
            sizes = scan.smallest(weights, s.faithful)
            size = int(sizes[0])
        own = cut(mean, size)
        circuits = [[own, cut(each, size)] for each in others]
        evaluation, held_out = self._evaluate(model, circuits)
        return FoundCircuit(
            Selection(size, s.tau),
            own.edges,
            evaluation,
            None if self._half is None else held_out.circuit,
            sizes,
            *self._gap(model),
        )

    def _ranked_by_others(self, per_edge: torch.Tensor) -> list[torch.Tensor]:
        """For the pairs of each half, mean scores of the pairs that are not in it: [E] each."""
        if self._half is None:
            return [per_edge.mean(0)]
        half = torch.tensor(self._half)
        return [per_edge[half != which].mean(0) for which in (0, 1)]

    def _evaluate(
        self, model: nn.Module, circuits: Sequence[Sequence[Circuit]]
    ) -> list[CircuitEvaluation]:
        """What circuits keep of the metric, pair by pair: of each half those that it has."""
        half = self._half or [0] * len(self._pairs)
        mine = [half[row] for row in distributed.my_rows(len(self._pairs))]
        count = len(circuits[0])
        measure = partial(_metric_values, model, circuits, mine, self._settings.metric)
        [found] = self._shared.measure(measure, [2 + count])
        full, empty, *of_circuits = found.unbind(1)
        return [CircuitEvaluation(values, full, empty) for values in of_circuits]

    def _gap(self, model: nn.Module) -> tuple[str | None, torch.Tensor | None]:
        """In what the behaviour shows, and how far on each pair; None where the metric itself says.

        KL is above 0 wherever two prompts are told apart, so it can't say that a model lacks the
        behaviour; the logit difference of the answers can, where the pairs have answers that differ
        in their first token.
        """
        if self._settings.metric != "kl":
            return self._settings.metric, None
        if not _differ(self._pairs):
            return None, None
        [gap] = self._shared.measure(partial(_answer_gap, model, self._settings.kv), [1])
        return "logit_diff", gap.squeeze(1)


def _differ(pairs: Pairs) -> bool:
    """Whether all pairs have answers, some of which differ in their first token."""
    answers = [(pair.target_id, pair.foil_id) for pair in pairs]
    return all(None not in both for both in answers) and any(a != b for a, b in answers)


def _metric_values(
    model: nn.Module,
    circuits: Sequence[Sequence[Circuit]],
    half: Sequence[int],
    metric: str,
    pairs: Pairs,
    batch_size: int,
) -> list[torch.Tensor]:
    """The metric of the full model, of the empty circuit and of each circuit: [pairs, 2+K].

    half: which circuits each of the pairs has.
    """
    found = torch.empty(len(pairs), 2 + len(circuits[0]), dtype=torch.float64)
    for which in sorted(set(half)):
        rows = [row for row, own in enumerate(half) if own == which]
        some = Pairs([pairs[row] for row in rows])
        each = evaluate_distinct(model, some, circuits[which], metric, batch_size=batch_size)
        values = [each[0].full, each[0].empty, *(one.circuit for one in each)]
        found[rows] = torch.stack(values, 1).double()
    return [found]


def _answer_gap(model: nn.Module, kv: str, pairs: Pairs, batch_size: int) -> list[torch.Tensor]:
    return [answer_gap(model, pairs, kv, batch_size)]

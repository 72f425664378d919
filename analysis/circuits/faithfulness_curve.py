"""Faithfulness of circuits of growing size, and the areas CPR and CMD, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from analysis.attribution.edge_scores import EdgeScores
    from analysis.circuits.circuit import Circuit
    from analysis.circuits.faithfulness import CircuitEvaluation

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
RESAMPLES = 1000


@dataclass(frozen=True)
class Curve:
    """Faithfulness at each of FRACTIONS, and its areas; values are (value, low, high)."""

    n_edges: list[int]
    points: list[tuple[float, float, float]]
    cpr: tuple[float, float, float]
    cmd: tuple[float, float, float]


def area(values: torch.Tensor, fractions: Sequence[float] = FRACTIONS) -> torch.Tensor:
    """Area under values [..., len(fractions)] over the fractions, by trapezoids: [...]."""
    import torch

    return torch.trapezoid(values, torch.tensor(fractions, dtype=values.dtype))


def circuits_of(scores: EdgeScores, greedy: bool, signed: bool) -> list[Circuit]:
    """The circuit of each of FRACTIONS; the last is the whole graph."""
    import torch

    from analysis.circuits.circuit import Circuit, select_circuit

    some = [
        select_circuit(scores, fraction=share, greedy=greedy, signed=signed)
        for share in FRACTIONS[:-1]
    ]
    return [*some, Circuit(scores.graph, torch.ones(scores.graph.n_edges, dtype=torch.bool))]


def crossed(
    scores: EdgeScores,
    half: Sequence[int],
    circuits_of: Callable[[EdgeScores], list[Circuit]],
    evaluate: Callable[[list[int], list[Circuit]], list[CircuitEvaluation]],
) -> tuple[list[int], list[CircuitEvaluation]]:
    """Circuits of each size, each pair under those that the other half of the pairs ranked.

    half: of each pair, 0 or 1 (analysis/circuits/halves.py). circuits_of: of the scores of some
    pairs. evaluate: the metric of some pairs, by their places, under circuits.

    Returns the edges of the circuits, the mean of both halves', and the metric of all pairs.
    """
    import torch

    from analysis.circuits.faithfulness import CircuitEvaluation

    of_pair = torch.tensor(half)
    order: list[int] = []
    sizes: list[list[int]] = []
    found: list[list[CircuitEvaluation]] = []
    for which in (0, 1):
        rows = (of_pair == which).nonzero().flatten().tolist()
        circuits = circuits_of(replace(scores, per_pair=scores.per_pair[of_pair != which]))
        order += rows
        sizes.append([circuit.n_edges for circuit in circuits])
        found.append(evaluate(rows, circuits))
    back = torch.tensor(order).argsort()
    evaluations = [
        CircuitEvaluation(
            *(
                torch.cat([getattr(one, name) for one in both])[back]
                for name in ("circuit", "full", "empty")
            )
        )
        for both in zip(*found, strict=True)
    ]
    return [round(sum(both) / 2) for both in zip(*sizes, strict=True)], evaluations


def curve(
    n_edges: list[int],
    evaluations: list[CircuitEvaluation],
    weights: torch.Tensor,
) -> Curve:
    """Faithfulness with intervals, from the metric of each pair.

    n_edges: of the circuits. weights: of the pairs in each resample, [1+R, P]; no intervals if R is
    0.

    Raises:
        ValueError: the full model and the empty circuit measure the same, so nothing is to explain.
    """
    import torch

    from analysis.attribution.metrics import faithfulness
    from analysis.intervals import estimate

    metric = torch.stack([e.circuit for e in evaluations]).double()  # [circuits, pairs]
    full, empty = evaluations[0].full.double(), evaluations[0].empty.double()
    if full.mean() == empty.mean():
        raise ValueError(
            "the metric is the same for the full model and the empty circuit; the pairs or the "
            "metric show no difference that a circuit could explain"
        )
    rows = weights.double()
    top, bottom = rows @ full, rows @ empty
    found = faithfulness(rows @ metric.T, top[:, None], bottom[:, None])  # [1+R, circuits]

    def with_ends(table: torch.Tensor) -> tuple[float, float, float]:
        number = estimate(table)
        return number.value, number.low, number.high

    return Curve(
        n_edges=n_edges,
        points=[with_ends(of_circuit) for of_circuit in found.T],
        cpr=with_ends(area(found)),
        cmd=with_ends(area((1 - found).abs())),
    )


def random_scores(scores: EdgeScores, seed: int) -> EdgeScores:
    """The same scores in a random order of the edges: the control."""
    import torch

    order = torch.randperm(scores.graph.n_edges, generator=torch.Generator().manual_seed(seed))
    per_pair = torch.zeros_like(scores.per_pair)
    per_pair[:, scores.graph.edge_mask] = scores.per_edge[:, order]
    return replace(scores, per_pair=per_pair)

"""The smallest circuit that reaches a faithfulness, and how far its size is known.

Faithfulness need not rise with every edge: a curve may reach the target, fall below it, and reach
it again at six times the size, where a bisection ends or not by chance. So sizes are scanned from
below, on a grid of factor FACTOR, and the first that reaches the target is taken. Between two
sizes of the grid a smaller one may reach it by luck; the grid is part of the definition.

The size is a sample's, like the scores. All sizes are evaluated on the same pairs, so of each
resample of the pairs the curve is known too, and its own first size with it. For that the scan
goes on beyond the size of the pairs themselves, until at least SURE of the resamples have reached
the target, or the size is BEYOND times that of the pairs; resamples that have not then take the
last size that was scanned.

Shape legend: K sizes, P pairs, R resamples; row 0 of the weights is the pairs themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from analysis.attribution.metrics import faithfulness
from analysis.circuits.faithfulness import CircuitEvaluation

FACTOR = 1.25
BEYOND = 4.0  # times the size of the pairs; the sensitivity sweep ends there too
SURE = 0.975
AT_ONCE = 6  # sizes in one evaluation, which share the runs of the model itself
log = logging.getLogger(__name__)


def size_grid(n_edges: int) -> list[int]:
    """1 and on, each FACTOR times the one before, rounded, to all edges."""
    sizes = [1]
    while sizes[-1] < n_edges:
        last = sizes[-1]
        sizes.append(min(n_edges, max(last + 1, round(FACTOR * last))))
    return sizes


@dataclass(frozen=True)
class SizeScan:
    """What circuits of growing size keep of the metric.

    sizes: edges before pruning, int64 [K], rising. circuit: the metric of each, [K, P].
    full, empty: of the full model and of the empty circuit, [P].
    """

    sizes: torch.Tensor
    circuit: torch.Tensor
    full: torch.Tensor
    empty: torch.Tensor

    def faithfulness(self, weights: torch.Tensor) -> torch.Tensor:
        """Of means with the weights [1+R, P] of the pairs: float64 [1+R, K]; NaN without a gap."""
        weights = weights.double()
        full, empty = (weights @ m.double() for m in (self.full, self.empty))
        return faithfulness(weights @ self.circuit.double().T, full[:, None], empty[:, None])

    def reached(self, weights: torch.Tensor, target: float) -> torch.Tensor:
        """Whether some size reaches the target: bool [1+R]."""
        return (self.faithfulness(weights) >= target).any(1)

    def smallest(self, weights: torch.Tensor, target: float) -> torch.Tensor:
        """The first size that reaches the target, the last where none does: int64 [1+R]."""
        reaches = self.faithfulness(weights) >= target
        reaches[:, -1] = True
        return self.sizes[reaches.int().argmax(1)]


def scan_sizes(
    n_edges: int,
    target: float,
    weights: torch.Tensor,
    evaluate: Callable[[Sequence[int]], Sequence[CircuitEvaluation]],
) -> SizeScan:
    """Evaluate circuits of growing size until the smallest that reaches the target is known.

    n_edges: of the graph. weights: of the pairs in their resamples, [1+R, P]. evaluate: the
    circuits of some sizes, on the same pairs. If none of all sizes reaches the target, a warning
    says so.
    """
    grid = size_grid(n_edges)
    found: list[CircuitEvaluation] = []
    while True:
        found += evaluate(grid[len(found) : len(found) + AT_ONCE])
        scan = SizeScan(
            torch.tensor(grid[: len(found)]),
            torch.stack([each.circuit for each in found]),
            found[0].full,
            found[0].empty,
        )
        reached = scan.reached(weights, target)
        if len(found) == len(grid):
            break
        if not reached[0]:
            continue
        own = int(scan.smallest(weights[:1], target))
        if float(reached.double().mean()) >= SURE or grid[len(found) - 1] >= BEYOND * own:
            break
    if not reached[0]:
        log.warning("no circuit reaches a faithfulness of %s; all edges are taken", target)
    return scan

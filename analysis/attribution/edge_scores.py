"""Scores of every edge on every pair, as `attribute` returns them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analysis.models.graph import Graph


@dataclass(frozen=True)
class EdgeScores:
    """What `attribute` returns.

    per_pair: score of every edge for every pair, [pairs, S, D], 0 where there is no edge
    metric_clean, metric_corrupted: the metric on the two prompts, [pairs]
    points: at which the gradient was taken along each pair's path, int64 [pairs]; None: not known.
        One of EAP and GIM, two of clean-corrupted, none of exact.
    """

    graph: Graph
    per_pair: torch.Tensor
    metric_clean: torch.Tensor
    metric_corrupted: torch.Tensor
    points: torch.Tensor | None = None

    @property
    def mean(self) -> torch.Tensor:
        """Mean over pairs: [S, D]."""
        return self.per_pair.mean(0)

    @property
    def per_edge(self) -> torch.Tensor:
        """Scores of the existing edges only, in the order of `graph.edges`: [pairs, E]."""
        return self.per_pair[:, self.graph.edge_mask]

    @property
    def source_names(self) -> list[str]:
        return self.graph.source_names

    @property
    def destination_names(self) -> list[str]:
        return self.graph.destination_names

    @property
    def completeness_gap(self) -> float:
        """|sum of the input's attributions - (M corrupted - M clean)| / |M corrupted - M clean|.

        All means over pairs. The sum over the edges out of `input` is the path integral of the
        gradient along the embedding, so for EAP-IG-inputs the gap is the error of the quadrature;
        infinite where the metric does not change.
        """
        missed, change = self.missed
        return missed / change if change else float("inf")

    @property
    def missed(self) -> tuple[float, float]:
        """Numerator and denominator of `completeness_gap`, in units of the metric."""
        change = (self.metric_corrupted - self.metric_clean).mean()
        return float((self.mean[0].sum() - change).abs()), float(change.abs())

"""Score sets whose truth is known: heads that emerge, that are pruned, that stay as they are.

Edges have true mean strengths, lognormal with an effect of the head they leave. Between `before`
and `after` some heads' edges grow and as many others' shrink by a factor. The score of a pair is
the mean times lognormal noise. The true circuits are those of the true means.
"""

from __future__ import annotations

import math

import torch

from analysis.heads.changes import Heads
from analysis.heads.resampling import Selection, resample_heads, select
from analysis.models.graph import Graph
from analysis.records.record import Record

GRAPH = Graph(6, 8, 4)
N_HEADS = GRAPH.n_layers * GRAPH.n_heads
SELECTION = Selection(GRAPH.n_edges // 5)


class World:
    """`changed` heads grow and as many shrink by `factor`.

    noise: standard deviation of the log of a pair's score. shared: share of that noise that two
    checkpoints have in common, because the pairs are the same.
    before, after: true mean scores [E].  grown, shrunk: heads.
    """

    def __init__(
        self,
        seed: int,
        changed: int = 0,
        factor: float = 20.0,
        noise: float = 0.9,
        shared: float = 0.5,
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.noise, self.shared = noise, shared
        sources = GRAPH.edges[:, 0]
        effects = torch.zeros(GRAPH.n_sources)
        effects[GRAPH.head_sources] = 1.2 * torch.randn(N_HEADS, generator=self.generator)
        logs = 1.2 * torch.randn(GRAPH.n_edges, generator=self.generator) + effects[sources]
        chosen = torch.randperm(N_HEADS, generator=self.generator)[: 2 * changed]
        self.grown, self.shrunk = chosen[:changed], chosen[changed:]
        growth = torch.zeros(GRAPH.n_sources)
        growth[GRAPH.head_sources[self.grown]] = math.log(factor)
        growth[GRAPH.head_sources[self.shrunk]] = -math.log(factor)
        self.before, self.after = logs.exp(), (logs + growth[sources]).exp()

    def truth(self) -> tuple[Heads, Heads]:
        """The heads of the true circuits before and after."""
        return heads_of(self.before[None], 1), heads_of(self.after[None], 1)

    def scores(self, n_pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Per-pair scores before and after: [pairs, E] each."""

        def draw() -> torch.Tensor:
            return torch.randn(n_pairs, GRAPH.n_edges, generator=self.generator)

        common = draw()
        found = []
        for strength in (self.before, self.after):
            z = math.sqrt(self.shared) * common + math.sqrt(1 - self.shared) * draw()
            found.append(strength * (self.noise * z - self.noise**2 / 2).exp())
        return found[0], found[1]


def heads_of(scores: torch.Tensor, resamples: int = 300, seed: int = 0) -> Heads:
    """The resampled heads of per-pair scores."""
    r = resample_heads(GRAPH, scores, SELECTION, resamples, seed)
    return Heads(r.strength, r.threshold, r.importance, len(scores))


def make_record(step: int, scores: torch.Tensor, resamples: int = 300, **changes: object) -> Record:
    """A record of per-pair scores [pairs, E] on GRAPH."""
    mean, n_pairs = scores.mean(0), len(scores)
    values: dict[str, object] = {
        "step": step,
        "graph": GRAPH,
        "pairs_hash": "h",
        "settings": {"metric": "kl", "resamples": resamples, "seed": 0},
        "origin": {"model": {"weights": f"w{step}", "adapter": None}, "code": {}, "config": None},
        "selection": {"top_n": SELECTION.top_n, "tau": SELECTION.tau},
        "completeness_gap": 0.01,
        "metric_clean": 0.0,
        "metric_corrupted": 2.0,
        "n_pairs": n_pairs,
        "seconds": 1.0,
        "circuit": select(GRAPH, mean, SELECTION),
        "mean": mean,
        "evaluation": torch.tensor([[0.4], [0.0], [2.0]]).repeat(1, n_pairs),
        "resampled": resample_heads(GRAPH, scores, SELECTION, resamples, 0),
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]

"""Worlds whose truth is known: per-pair scores of checkpoints between which chosen heads change.

What the calls of a run are worth can only be counted where it is known which heads really changed.
A world has true mean scores of its edges at the base ("b") and after the change ("m", moved);
between them some heads grow and as many shrink. The true circuits are those of the true means. A
run is a word such as `bmmm`, one letter a checkpoint: its pairs are drawn anew, and each checkpoint
adds noise that it shares with the others in part, because they are measured on the same pairs.

    Lognormal     means are lognormal with an effect of the head that an edge leaves; the score of a
                  pair is the mean times lognormal noise, independent for each edge
    Resampled     means are those of real per-pair scores [pairs, E], such as a record of a run has
                  them; a pair is a row drawn from these, so that signs, tails and how edges go
                  together are real. A head that changes has its blocks of edges scaled

Shape legend: P pairs, E edges, A heads in all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import torch

from analysis.heads.changes import Heads
from analysis.heads.resampling import Selection, resample_heads, resample_wide
from analysis.models.graph import Graph

LOGNORMAL_GRAPH = Graph(6, 8, 4)
SHARE = 5  # one edge in so many makes the lognormal circuit


class World(ABC):
    """`changed` heads grow and as many shrink by `factor`.

    shared: share of the noise that two checkpoints have in common; in a resampled world, share of
    the pairs of which two checkpoints have the same row.
    before, after: true mean scores [E].  grown, shrunk: heads.  growth: of each edge [E].
    """

    graph: Graph
    selection: Selection
    generator: torch.Generator
    shared: float
    before: torch.Tensor
    after: torch.Tensor
    grown: torch.Tensor
    shrunk: torch.Tensor

    @abstractmethod
    def run(self, n_pairs: int, word: str) -> Iterator[torch.Tensor]:
        """Per-pair scores of the checkpoints of a word of `b` and `m`: [P, E] each."""

    @abstractmethod
    def further(self, n_pairs: int) -> torch.Tensor:
        """Scores of the base on other pairs: [P, E]."""

    def scores(self, n_pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Per-pair scores before and after: [P, E] each."""
        before, after = self.run(n_pairs, "bm")
        return before, after

    def heads(self, scores: torch.Tensor, resamples: int = 300, seed: int = 0) -> Heads:
        """The resampled heads of per-pair scores [P, E]."""
        r = resample_heads(self.graph, scores, self.selection, resamples, seed)
        return Heads(r.strength, r.threshold, r.importance, len(scores))

    def base(
        self, scores: torch.Tensor, times: int = 1, resamples: int = 300, seed: int = 0
    ) -> Heads:
        """The heads of the base, measured on further pairs too: `times` as many in all."""
        found = self.heads(scores, resamples, seed)
        if times == 1:
            return found
        further = self.further((times - 1) * len(scores))
        wide = resample_wide(self.graph, scores, further, self.selection, resamples, seed)
        over_all = Heads(wide.strength, wide.threshold, found.importance, len(scores))
        return replace(found, wide=over_all)

    def truth(self) -> tuple[Heads, Heads]:
        """The heads of the true circuits before and after."""
        return self.heads(self.before[None], 1), self.heads(self.after[None], 1)

    def _choose(self, changed: int, factor: float) -> torch.Tensor:
        """Draw the heads that change; the log of the factor of each head [A]."""
        n_heads = self.graph.n_heads_total
        chosen = torch.randperm(n_heads, generator=self.generator)[: 2 * changed]
        self.grown, self.shrunk = chosen[:changed], chosen[changed:]
        growth = torch.zeros(n_heads)
        growth[self.grown], growth[self.shrunk] = math.log(factor), -math.log(factor)
        return growth


class Lognormal(World):
    """A head that changes has its edges out scaled.

    noise: standard deviation of the log of a pair's score.
    """

    def __init__(
        self,
        seed: int,
        changed: int = 0,
        factor: float = 20.0,
        noise: float = 0.9,
        shared: float = 0.5,
    ) -> None:
        self.graph, self.noise, self.shared = LOGNORMAL_GRAPH, noise, shared
        self.selection = Selection(self.graph.n_edges // SHARE)
        self.generator = torch.Generator().manual_seed(seed)
        graph, sources = self.graph, self.graph.edges[:, 0]
        effects = torch.zeros(graph.n_sources)
        effects[graph.head_sources] = 1.2 * self._normal(graph.n_heads_total)
        logs = 1.2 * self._normal(graph.n_edges) + effects[sources]
        growth = torch.zeros(graph.n_sources)
        growth[graph.head_sources] = self._choose(changed, factor)
        self.before, self.after = logs.exp(), (logs + growth[sources]).exp()

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def run(self, n_pairs: int, word: str) -> Iterator[torch.Tensor]:
        shape, shared = (n_pairs, self.graph.n_edges), self.shared
        common = self._normal(*shape)
        for letter in word:
            z = math.sqrt(shared) * common + math.sqrt(1 - shared) * self._normal(*shape)
            yield self._times(self.before if letter == "b" else self.after, z)

    def further(self, n_pairs: int) -> torch.Tensor:
        return self._times(self.before, self._normal(n_pairs, self.graph.n_edges))

    def _times(self, mean: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return mean * (self.noise * z - self.noise**2 / 2).exp()


class Resampled(World):
    """A head that changes has its edges out and in scaled, with keys and values that it shares."""

    def __init__(
        self,
        seed: int,
        graph: Graph,
        per_pair: torch.Tensor,
        selection: Selection,
        changed: int = 0,
        factor: float = 20.0,
        shared: float = 0.5,
    ) -> None:
        """per_pair: real scores [P, E], the population.  selection: of each circuit."""
        self.graph, self.selection, self.shared = graph, selection, shared
        self.population = per_pair.float()
        self.generator = torch.Generator().manual_seed(seed)
        nodes = torch.zeros(graph.n_sources + 1)  # the logits are the last
        nodes[graph.head_sources] = self._choose(changed, factor)
        source, destination = graph.edges.T
        into = graph.readers.float() @ nodes
        self._growth = (nodes[source] + into[destination]).exp()
        self.before = self.population.mean(0)
        self.after = self.before * self._growth

    def _draw(self, n_pairs: int) -> torch.Tensor:
        return torch.randint(len(self.population), (n_pairs,), generator=self.generator)

    def run(self, n_pairs: int, word: str) -> Iterator[torch.Tensor]:
        common = self._draw(n_pairs)
        for letter in word:
            same = torch.rand(n_pairs, generator=self.generator) < math.sqrt(self.shared)
            rows = self.population[torch.where(same, common, self._draw(n_pairs))]
            yield rows if letter == "b" else rows * self._growth

    def further(self, n_pairs: int) -> torch.Tensor:
        return self.population[self._draw(n_pairs)]

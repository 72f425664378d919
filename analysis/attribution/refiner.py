"""The runs of `ig_steps=auto`: first points of all pairs, then more of those that need them.

Points of any pairs of the batch share a pass, as many as the batch has pairs.

Shape legend: B pairs, T positions, S sources, D destinations, E edges, N places where the metric is
read, d residual width.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from analysis.attribution.contraction import Contraction
from analysis.attribution.gradient_run import gradient_run
from analysis.attribution.gradients import GradientSums
from analysis.attribution.memory import Plan
from analysis.attribution.metrics import Metric
from analysis.attribution.quadrature import path_points
from analysis.attribution.refinement import START, Cell, Path, points_of
from analysis.models.anatomy import Anatomy
from analysis.models.forward import Sources, source_run
from analysis.models.hooks import Hooks
from analysis.models.linear import wide
from analysis.models.routing import Routing
from analysis.prompts.pairs import Batch

_Visited = tuple[float, float, torch.Tensor]  # M and slope at a point, and its scores [E]


@dataclass(frozen=True)
class Refiner:
    """The attribution of one batch with points where its pairs need them.

    ends: what enters the first layer of the corrupted and of the clean run, [B, T, d].
    differences: of what the sources write.  clean_logits: [N, V].
    """

    parts: Anatomy
    batch: Batch
    metric: Metric
    routing: Routing
    made: Plan
    gap: float
    ends: tuple[torch.Tensor, torch.Tensor]
    differences: Sources
    clean_logits: torch.Tensor
    recompute: bool = False

    def scores(
        self, corrupted: torch.Tensor, clean: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [B, S, D], and the points that each pair took [B]; of the metric at the ends."""
        with self.routing.held():
            scores, values, slopes = self._start()
        paths = [
            Path(of_ends, _cells(of_values, of_slopes))
            for of_ends, of_values, of_slopes in zip(
                zip(corrupted.tolist(), clean.tolist(), strict=True), values, slopes, strict=True
            )
        ]
        everyone = range(len(paths))
        for first in everyone[:: self.made.open]:
            self._refine(paths, everyone[first : first + self.made.open], scores)
        return scores, torch.tensor([path.spent for path in paths])

    def _refine(self, paths: list[Path], pairs: range, scores: torch.Tensor) -> None:
        """Visit later points of some pairs until their paths are closed, and add their scores.

        Those of a pair's points are kept until then, for a point's weight falls when its cell is
        cut.
        """
        kept: dict[int, list[torch.Tensor]] = {pair: [] for pair in pairs}
        mask = self.parts.graph.edge_mask.to(scores.device)
        while kept:
            worst = {
                pair: [] if paths[pair].closed(self.gap) else paths[pair].worst() for pair in kept
            }
            for pair, cells in worst.items():
                if cells:
                    continue
                own = kept.pop(pair)
                for cell in paths[pair].cells:
                    if cell.place is not None:
                        scores[pair][mask] += own[cell.place].to(scores) * cell.weight
            self._cut(paths, [(pair, cell) for pair in kept for cell in worst[pair]], kept)

    def _start(self) -> tuple[torch.Tensor, list[list[float]], list[list[float]]]:
        """The sum of the first points [B, S, D]; M and the slope at each of them, of every pair."""
        sums = GradientSums(self.parts)
        contraction = Contraction(self.parts, self.differences, self.made.tokens)
        shape = len(self.batch.clean), *self.parts.graph.edge_mask.shape
        scores = self.differences.embedding.new_zeros(shape)
        values, slopes = [], []
        for alpha, weight in path_points("midpoint", START):
            if sums.n_steps >= self.made.steps:
                contraction.add(sums, scores)
                sums.clear()
            with sums.step(weight) as hooks:
                value, slope = self._run(hooks, torch.lerp(*self.ends, alpha))
            values.append(value)
            slopes.append(slope)
        contraction.add(sums, scores)
        return scores, torch.stack(values, 1).tolist(), torch.stack(slopes, 1).tolist()

    def _run(self, hooks: Hooks, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """M and the slope of each pair at a point: [B]."""
        logits, gradient = gradient_run(
            *(self.parts, self.metric, self.batch, hooks, self.batch.clean),
            *(embedding, self.clean_logits, self.recompute),
        )
        slope = (wide(gradient) * self.differences.embedding).sum((1, 2))
        return self.metric(logits, self.clean_logits, self.batch), slope

    def _cut(
        self, paths: list[Path], cells: list[tuple[int, Cell]], kept: dict[int, list[torch.Tensor]]
    ) -> None:
        """Visit what the cells need, and cut them."""
        wanted = [(pair, alpha) for pair, cell in cells for alpha in points_of(cell)]
        size, visited = len(self.batch.clean), []
        for first in range(0, len(wanted), size):
            visited += self._visit(wanted[first : first + size])
        for pair, cell in cells:
            found = []
            for _ in points_of(cell):
                value, slope, scores = visited.pop(0)
                found.append((value, slope, len(kept[pair])))
                kept[pair].append(scores)
            paths[pair].cut(cell, found)

    def _visit(self, wanted: list[tuple[int, float]]) -> list[_Visited]:
        """What is found at points (pair, alpha), in one pass."""
        some = self._rows([pair for pair, _ in wanted])
        alphas = some.ends[0].new_tensor([alpha for _, alpha in wanted])[:, None, None]
        sums = GradientSums(self.parts)
        with ExitStack() as stack:
            if self.routing.layers:  # is held for the rows that it was recorded of
                routing = Routing.of(self.parts)
                with routing.recorded():
                    source_run(self.parts, some.batch.clean, some.batch)
                stack.enter_context(routing.held())
            with sums.step(1.0) as hooks:
                value, slope = some._run(hooks, torch.lerp(*some.ends, alphas))
        scores = some.differences.embedding.new_zeros(
            len(wanted), *self.parts.graph.edge_mask.shape
        )
        Contraction(self.parts, some.differences, self.made.tokens).add(sums, scores)
        each = scores[:, self.parts.graph.edge_mask.to(scores.device)].cpu()
        return list(zip(value.tolist(), slope.tolist(), each, strict=True))

    def _rows(self, pairs: list[int]) -> Refiner:
        """The same for some pairs, each of which may come several times."""
        batch, device = self.batch, self.batch.clean.device
        chosen = torch.tensor(pairs, device=device)
        places = [(batch.rows == pair).nonzero().flatten() for pair in pairs]
        counts = torch.tensor([len(place) for place in places], device=device)
        at = torch.cat(places)

        def of(values: torch.Tensor | None, index: torch.Tensor) -> torch.Tensor | None:
            return None if values is None else values[index]

        rows = Batch(
            *(batch.clean[chosen], batch.corrupted[chosen], batch.mask[chosen]),
            rows=torch.arange(len(pairs), device=device).repeat_interleave(counts),
            positions=batch.positions[at],
            labels=of(batch.labels, at),
            target_ids=of(batch.target_ids, chosen),
            foil_ids=of(batch.foil_ids, chosen),
        )
        d = self.differences
        differences = Sources(
            d.embedding[chosen], [z[chosen] for z in d.zr], [node[chosen] for node in d.nodes]
        )
        ends = self.ends[0][chosen], self.ends[1][chosen]
        logits = self.clean_logits[at]
        return replace(self, batch=rows, ends=ends, differences=differences, clean_logits=logits)


def _cells(values: list[float], slopes: list[float]) -> list[Cell]:
    """The cells of the start."""
    points = path_points("midpoint", START)
    return [Cell(a, w, m, s) for (a, w), m, s in zip(points, values, slopes, strict=True)]

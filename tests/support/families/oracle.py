"""Edges patched one by one: what the metric does when one destination reads a little more.

The derivative of the metric along what a source writes, at the input of one destination, as a
central difference of runs of the model's own code in float64. Nothing of the engine's gradients is
used, nor its norms. There are two ways to change one destination only:

    interface  the attention is run a second time on the changed input; of that run the head's q, k
               or v is taken, or, with q, k and v kept, what the head hands to the output projection
               (its gate)
    rows       the linear module is applied to the changed input, and its rows are taken

The first knows nothing of rows. It is there where a destination is all that makes these heads' q, k
or v; where a norm over all heads ties them together, the two differ, and a destination means rows.
Nodes and logits have an input of their own, which is changed.

Shape legend: n changes that are run together, B pairs, T positions, d residual width, S sources.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch

from analysis.attribution.metrics import Metric
from analysis.models.anatomy import Anatomy, Node, Norm
from analysis.models.hooks import Hooks
from analysis.models.maps import Map
from analysis.prompts.pairs import Batch
from tests.support.families.interface import Face, at_interface
from tests.support.families.second_run import Rows, SecondRun, Stream, changed, gauged
from tests.support.families.writes import written

STEPS = (1e-4, 1e-3, 1e-5, 1e-7)  # a kink (relu, the experts that are chosen) lies within few
WELL = 1e-5  # of the largest score


class Oracle:
    """The edges of a model on a batch."""

    def __init__(self, parts: Anatomy, batch: Batch, metric: Metric) -> None:
        self.parts, self.batch, self.metric = parts, batch, metric
        clean, corrupted = (written(parts, ids) for ids in (batch.clean, batch.corrupted))
        self.differences = (corrupted - clean) * batch.mask[..., None]
        self.clean_logits = self.logits(batch.clean)

    @cached_property
    def _faced(self) -> set[int]:
        """The modules that meet the interface, once in a run."""
        calls: list[int] = []

        def see(module: Any, face: Face) -> Face:
            calls.append(id(module))
            return face

        with at_interface(see):
            self.logits(self.batch.clean)
        return {module for module in calls if calls.count(module) == 1}

    @torch.no_grad()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """[B, T, V]"""
        output = self.parts.causal_lm(input_ids=ids, use_cache=False)
        return output.logits if hasattr(output, "logits") else output[0]

    def find(self, destination: int) -> Rows | Node | None:
        """What a destination is; None for the logits."""
        graph = self.parts.graph
        layer = int(graph.destination_layers[destination])
        if layer == graph.n_layers:
            return None
        block, shape = self.parts.blocks[layer], graph.shapes[layer]
        column = destination - graph.columns(layer).start
        sides = [
            (reading, side, number)
            for reading in block.readings
            for side in reading.sides
            for number in range(side.width)
        ]
        if column >= len(sides):
            return block.nodes[column - len(sides)]
        feeds = [(side, heads) for side in shape.sides for heads in side.feeds]
        own, fed = feeds[column]
        part = next((p for p in block.heads if p.first <= fed[0] < p.first + p.n_heads), None)
        if part is not None:
            inside = sides[column][1].module in set(part.attention.modules())
            assert inside, f"layer {layer}: rows are said to feed heads of another attention"
        others = [other for place, other in enumerate(feeds) if place != column]
        shared = any(set(s.letter) & set(own.letter) and set(h) & set(fed) for s, h in others)
        local = tuple(head - (0 if part is None else part.first) for head in fed)
        return Rows(*sides[column], part, local, not shared)

    def ways(self, destination: int) -> list[str]:
        """The ways in which a destination can be changed, that which knows least first."""
        found = self.find(destination)
        if not isinstance(found, Rows):
            return ["input"]
        part = found.heads
        faced = part is not None and id(part.attention) in self._faced
        known = found.side.letter == "g" or set(found.side.letter) <= set("qkv")
        norm = found.reading.norm
        before = faced and (norm is None or norm.module not in set(part.attention.modules()))
        return ["interface", "rows"] if before and known and found.whole else ["rows"]

    def derivatives(
        self, destination: int, sources: list[int], way: str, step: float
    ) -> torch.Tensor:
        """Central differences along what the sources write: [sources, B]."""
        delta = self.differences[sources]
        changes = torch.cat([delta, -delta]) * step  # [n, B, T, d]
        points = sources + sources
        values = self._metric(destination, changes, points, way)
        up, down = values.unflatten(0, (2, len(sources)))
        return (up - down) / (2 * step)

    def error(self, destination: int, sources: list[int], way: str, scores: torch.Tensor) -> float:
        """The largest difference from scores [B, S, D], over the largest score of all."""
        top = float(scores.abs().max())
        wanted = scores[:, sources, destination].T
        best = torch.full_like(wanted, float("inf"))
        for step in STEPS:
            found = self.derivatives(destination, sources, way, step)
            best = torch.minimum(best, (found - wanted).abs() / top)
            if float(best.max()) < WELL:
                break
        return float(best.max())

    @torch.no_grad()
    def _metric(
        self, destination: int, changes: torch.Tensor, sources: list[int], way: str
    ) -> torch.Tensor:
        """The metric of runs in which a destination reads its input and a change: [n, B]."""
        n = len(changes)
        many = self.batch.repeat(n)
        found = self.find(destination)
        with Hooks() as hooks:
            if found is None:
                self._change_logits(hooks, changes)
            elif isinstance(found, Node):
                self._change_node(hooks, destination, found, changes, sources)
            elif way == "rows":
                self._change_rows(hooks, found, changes)
            else:
                with SecondRun(hooks, found, changes).inside():
                    return self._run(many, n)
            return self._run(many, n)

    def _run(self, many: Batch, n: int) -> torch.Tensor:
        logits = self.logits(many.clean)[many.rows, many.positions]
        rows, positions = self.batch.rows, self.batch.positions
        clean = self.clean_logits[rows, positions].repeat(n, 1)
        return self.metric(logits, clean, many).view(n, -1)

    def _change_logits(self, hooks: Hooks, changes: torch.Tensor) -> None:
        added = gauged(changes, self.parts.gauge)
        hooks.output(self.parts.layers[-1], lambda x: x + added.reshape(x.shape))

    def _change_node(
        self, hooks: Hooks, destination: int, node: Node, changes: torch.Tensor, sources: list[int]
    ) -> None:
        layer = int(self.parts.graph.destination_layers[destination])
        for tap in node.taps:
            below = self.parts.graph.sources_at(layer, tap.point)
            reaches = torch.tensor([source < below for source in sources]).view(-1, 1, 1, 1)
            added = gauged(changes * reaches, tap.gauge)
            if tap.norm is None:
                hooks.input(tap.module, partial(_add, added, tap.scale))
            else:
                stream = Stream(hooks, tap.norm.module)
                hooks.input(tap.module, partial(_instead, stream, tap.norm, added, tap.scale))

    def _change_rows(self, hooks: Hooks, rows: Rows, changes: torch.Tensor) -> None:
        stream = Stream(hooks, rows.reading.place)
        added = gauged(changes, rows.reading.gauge)
        side = rows.side

        def replace(y: torch.Tensor) -> torch.Tensor:
            x = changed(stream.x, rows.reading.norm, added) * side.scale
            other, y = side.module.forward(x), y.clone()
            index = side.index[rows.number // side.repeats]
            y[..., index] = other.reshape(y.shape)[..., index]
            return y

        hooks.output(side.module, replace)


def _add(added: torch.Tensor, scale: float, x: torch.Tensor) -> torch.Tensor:
    return x + added.reshape(x.shape) * scale


def _instead(
    stream: Stream, norm: Norm | Map, added: torch.Tensor, scale: float, x: torch.Tensor
) -> torch.Tensor:
    return (changed(stream.x, norm, added) * scale).reshape(x.shape)

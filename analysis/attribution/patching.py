"""Runs in which every edge carries its clean value or an ablated one: circuits, and `exact` scores.

The model runs on the clean prompts. The input of a destination v is

    residual stream + sum over the cut edges u -> v of (ablated output of u - current output of u)

where current is what u writes in this very run, whose inputs are mixtures too. Each q, k and v head
gets an input of its own (those with the same edges cut share it): the shared norm and the head's
rows of the projection are applied to it, and the projection's output is replaced. A node that reads
at several points gets what was written up to each. With no edge cut
the model's code runs untouched; with all edges cut every input is the ablated one. Biases are
nobody's edge and stay.

Ablations: `patch`, the output on the corrupted prompt; `zero`; `mean`, the mean output over the
clean prompts' tokens.

Shape legend: B pairs, T positions, S sources, D destinations, d residual width, n destinations of
one side, R 1 or B: one set of cut edges for all pairs, or one for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from analysis.attribution.metrics import Metric
from analysis.models.anatomy import Anatomy, Heads, Node, Reading, Tap
from analysis.models.forward import Sources, run, watch_node
from analysis.models.hooks import Hooks
from analysis.models.linear import wide
from analysis.prompts.pairs import Batch

RUN_BYTES = 2**29  # of the sources' differences in one run


def exact_scores(
    parts: Anatomy, batch: Batch, metric: Metric, corrupted: Sources, clean_logits: torch.Tensor
) -> torch.Tensor:
    """Metric with one edge carrying its corrupted value, less that of the clean run: [B, S, D].

    One patched run per edge, many edges in one pass; for small models.
    """
    graph, n_pairs = parts.graph, len(batch.clean)
    base = metric(clean_logits, clean_logits, batch)
    scores = base.new_zeros(n_pairs, graph.n_sources, graph.n_destinations)
    length, d = batch.clean.shape[1], parts.width
    count = max(1, RUN_BYTES // (graph.n_sources * n_pairs * length * d * base.element_size()))
    for edges in graph.edges.split(min(count, 256)):
        n = len(edges)
        cut = base.new_zeros(n, n_pairs, graph.n_sources, graph.n_destinations, dtype=torch.bool)
        cut[torch.arange(n), :, edges[:, 0], edges[:, 1]] = True
        many = batch.repeat(n)
        ablated = Sources(
            corrupted.embedding.repeat(n, 1, 1),
            [z.repeat(n, 1, 1) for z in corrupted.zr],
            [node.repeat(n, 1, 1) for node in corrupted.nodes],
        )
        with torch.no_grad():
            logits = patched_logits(parts, many, cut.flatten(0, 1), ablated)
        change = metric(logits, clean_logits.repeat(n, 1), many).view(n, n_pairs) - base
        scores[:, edges[:, 0], edges[:, 1]] = change.T
    return scores


def patched_logits(
    parts: Anatomy, batch: Batch, cut: torch.Tensor, ablated: Sources
) -> torch.Tensor:
    """Logits [N, V] of the run on the clean prompts with the edges `cut` [R, S, D] ablated."""
    with Hooks() as hooks:
        _Patch(parts, hooks, cut, ablated)
        return run(parts, batch.clean, batch)


class _Patch:
    """The hooks of one patched run; `delta` [S, B, T, d] is ablated less current, as it comes."""

    def __init__(self, parts: Anatomy, hooks: Hooks, cut: torch.Tensor, ablated: Sources) -> None:
        self.parts, self.cut, self.ablated = parts, cut, ablated
        self.delta = torch.empty(0)
        self._z = torch.empty(0)
        graph = parts.graph
        hooks.input(parts.layers[0], self._start)
        for layer, block in enumerate(parts.blocks):
            column = graph.columns(layer).start
            for reading in block.readings:
                self._patch_reading(hooks, reading, layer, column)
                column += reading.width
            for index, node in enumerate(block.nodes):
                self._patch_node(hooks, node, layer, graph.node_column(layer, index))
        for index, (block, heads) in enumerate(parts.heads):
            source = graph.head_source(block.layer, heads.first)
            hooks.input(heads.o_proj, self._keep_z)
            hooks.output(heads.o_proj, partial(self._write_heads, index, source, heads))
        for index, (block, place, node) in enumerate(parts.nodes):
            source = graph.node_source(block.layer, place)
            watch_node(hooks, node, partial(self._write_node, index, source))
        hooks.output(parts.layers[-1], self._mix_end)

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.delta.shape[1:])

    def _start(self, x: torch.Tensor) -> None:
        self.delta = wide(x).new_zeros(self.parts.graph.n_sources, *x.shape)
        self.delta[0] = self.ablated.embedding - wide(x)

    def _keep_z(self, z: torch.Tensor) -> None:
        self._z = z.reshape(*self._shape[:2], -1)

    def _deltas(
        self, columns: slice, n_sources: int, gauge: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Groups of destinations that read the same: their indices in `columns`, and [B, T, d].

        That is what is added to the stream. Destinations all of whose edges are clean are left out.
        """
        cut = self.cut[:, :n_sources, columns].permute(2, 0, 1)  # [n, R, S]
        patterns, group = torch.unique(cut, dim=0, return_inverse=True)
        weight, delta = patterns.to(self.delta.dtype), self.delta[:n_sources]
        if weight.shape[1] == 1:
            mixed = (weight[:, 0] @ delta.flatten(1)).view(-1, *self._shape)
        else:
            mixed = torch.einsum("nbs,sbtd->nbtd", weight, delta)
        if gauge is not None:
            mixed *= gauge
        for index, pattern in enumerate(patterns):
            if bool(pattern.any()):
                yield (group == index).nonzero().flatten(), mixed[index]

    def _patch_reading(self, hooks: Hooks, reading: Reading, layer: int, column: int) -> None:
        stream: list[torch.Tensor] = []
        sources = self.parts.graph.sources_at(layer, reading.point)

        def keep(x: torch.Tensor) -> None:
            stream[:] = [wide(x).reshape(self._shape)]

        def project(y: torch.Tensor, sides: list[int]) -> torch.Tensor:
            out = y.reshape(*self._shape[:2], -1).clone()
            for index in sides:
                side = reading.sides[index]
                first = column + side.column
                columns = slice(first, first + side.width)
                offset, by_head = reading.offsets[index], side.seen(out).clone()
                for heads, delta in self._deltas(columns, sources, reading.gauge):
                    x = stream[0] + delta
                    x = x if reading.norm is None else reading.norm.apply(x)
                    new = x @ side.weight[heads].flatten(0, 1).T
                    new = new.unflatten(-1, (len(heads), -1))
                    by_head[..., heads, :] = (new if offset is None else new + offset[heads]).to(
                        y.dtype
                    )
                side.write(out, by_head)
            return out.view(y.shape)

        hooks.input(reading.place, keep)
        for module, sides in reading.modules.items():
            hooks.output(module, partial(project, sides=sides))

    def _patch_node(self, hooks: Hooks, node: Node, layer: int, column: int) -> None:
        for tap in node.taps:
            sources = self.parts.graph.sources_at(layer, tap.point)
            stream: list[torch.Tensor] = []
            if tap.norm is not None:
                hooks.input(tap.norm.module, partial(_keep, stream))
            mix = partial(self._mix, tap=tap, stream=stream, column=column, n_sources=sources)
            hooks.input(tap.module, mix)

    def _mix(
        self, x: torch.Tensor, tap: Tap, stream: list[torch.Tensor], column: int, n_sources: int
    ) -> torch.Tensor | None:
        for _, delta in self._deltas(slice(column, column + 1), n_sources, tap.gauge):
            if tap.norm is None:
                return (wide(x) + tap.scale * delta.reshape(x.shape)).to(x.dtype)
            normed = tap.norm.apply(stream[0].reshape(self._shape) + delta)
            bias = tap.norm.bias
            normed = normed if bias is None else normed + bias
            return (normed * tap.scale).reshape(x.shape).to(x.dtype)
        return None

    def _mix_end(self, x: torch.Tensor) -> torch.Tensor | None:
        graph = self.parts.graph
        last = slice(graph.n_destinations - 1, graph.n_destinations)
        for _, delta in self._deltas(last, graph.n_sources, self.parts.gauge):
            return (wide(x) + delta.reshape(x.shape)).to(x.dtype)
        return None

    def _write_heads(self, index: int, source: int, heads: Heads, attention: torch.Tensor) -> None:
        zr = wide(self._z)
        if heads.after is not None:
            zr = heads.extended(zr) * heads.after.rstd(attention).reshape(*self._shape[:2], 1)
        ablated = self.ablated.zr[index].expand_as(zr)
        self.delta[source : source + heads.n_heads] = heads.written(ablated - zr)

    def _write_node(self, index: int, source: int, output: torch.Tensor) -> None:
        self.delta[source] = self.ablated.nodes[index] - wide(output).reshape(self._shape)


def _keep(stream: list[torch.Tensor], x: torch.Tensor) -> None:
    stream[:] = [wide(x)]

"""Runs in which every edge carries its clean value or an ablated one: circuits, and `exact` scores.

The model runs on the clean prompts. The input of a destination v is

    residual stream + sum over the cut edges u -> v of (ablated output of u - current output of u)

where current is what u writes in this very run, whose inputs are mixtures too. Each q, k and v head
gets an input of its own (those with the same edges cut share it): the shared norm and the head's
rows of the projection are applied to it, and the projection's output is replaced. With no edge cut
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
from analysis.models.anatomy import Anatomy, Block, Projection, wide
from analysis.models.forward import Sources, run
from analysis.models.hooks import Hooks
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
    length, d = batch.clean.shape[1], len(parts.final_norm.gain)
    count = max(1, RUN_BYTES // (graph.n_sources * n_pairs * length * d * base.element_size()))
    for edges in graph.edges.split(min(count, 256)):
        n = len(edges)
        cut = base.new_zeros(n, n_pairs, graph.n_sources, graph.n_destinations, dtype=torch.bool)
        cut[torch.arange(n), :, edges[:, 0], edges[:, 1]] = True
        many = batch.repeat(n)
        ablated = Sources(
            corrupted.embedding.repeat(n, 1, 1),
            [z.repeat(n, 1, 1) for z in corrupted.zr],
            [m.repeat(n, 1, 1) for m in corrupted.mlp],
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
        self._x = torch.empty(0)  # residual stream at the attention of the current layer
        self._z = torch.empty(0)
        graph = parts.graph
        hooks.input(parts.layers[0], self._start)
        for index, block in enumerate(parts.blocks):
            hooks.input(block.attention_norm.module, self._keep_stream)
            for module, sides in block.readers.items():
                hooks.output(module, partial(self._project, index=index, sides=sides))
            hooks.input(block.o_proj, self._keep_z)
            hooks.output(block.o_proj, partial(self._write_heads, index=index, block=block))
            column, below = (index + 1) * graph.layer_width - 1, graph.mlp_sources(index)
            hooks.input(block.mlp_norm.module, partial(self._mix, column=column, n_sources=below))
            hooks.output(block.mlp_branch, partial(self._write_mlp, index=index))
        mix = partial(self._mix, column=graph.n_destinations - 1, n_sources=graph.n_sources)
        hooks.input(parts.final_norm.module, mix)

    def _start(self, x: torch.Tensor) -> None:
        self.delta = wide(x).new_zeros(self.parts.graph.n_sources, *x.shape)
        self.delta[0] = self.ablated.embedding - wide(x)

    def _keep_stream(self, x: torch.Tensor) -> None:
        self._x = x

    def _keep_z(self, z: torch.Tensor) -> None:
        self._z = z

    def _inputs(
        self, x: torch.Tensor, columns: slice, n_sources: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Groups of destinations that read the same: their indices in `columns`, and [B, T, d].

        Destinations all of whose edges are clean are left out.
        """
        cut = self.cut[:, :n_sources, columns].permute(2, 0, 1)  # [n, R, S]
        patterns, group = torch.unique(cut, dim=0, return_inverse=True)
        weight, delta = patterns.to(self.delta.dtype), self.delta[:n_sources]
        if weight.shape[1] == 1:
            mixed = (weight[:, 0] @ delta.flatten(1)).view(-1, *x.shape)
        else:
            mixed = torch.einsum("nbs,sbtd->nbtd", weight, delta)
        for index, pattern in enumerate(patterns):
            if bool(pattern.any()):
                yield (group == index).nonzero().flatten(), mixed[index].add_(wide(x))

    def _project(self, y: torch.Tensor, index: int, sides: list[Projection]) -> torch.Tensor:
        """Replace the outputs of the heads whose inputs differ from the residual stream."""
        graph, norm = self.parts.graph, self.parts.blocks[index].attention_norm
        out = y.clone()
        for side in sides:
            first = index * graph.layer_width + side.column
            columns = slice(first, first + side.width)
            by_head = out[..., side.features].unflatten(-1, (side.width, side.head_dim))
            for heads, inputs in self._inputs(self._x, columns, graph.attention_sources(index)):
                normed = norm.centre(inputs) * norm.rstd(inputs) * norm.gain
                new = (normed @ side.weight[heads].flatten(0, 1).T).unflatten(-1, (len(heads), -1))
                if side.offset is not None:
                    new = new + side.offset.view(side.width, -1)[heads]
                by_head[..., heads, :] = new.to(y.dtype)
        return out

    def _write_heads(self, attention: torch.Tensor, index: int, block: Block) -> None:
        zr, norm = wide(self._z), block.post_attention_norm
        zr = zr if norm is None else zr * norm.rstd(attention)
        dz = (self.ablated.zr[index] - zr).unflatten(-1, (block.n_heads, -1))
        first = self.parts.graph.head_source(index, 0)
        heads = torch.einsum("bthe,hed->hbtd", dz, block.W_O)
        self.delta[first : first + block.n_heads] = heads

    def _write_mlp(self, output: torch.Tensor, index: int) -> None:
        source = self.parts.graph.mlp_sources(index)
        self.delta[source] = self.ablated.mlp[index] - wide(output)

    def _mix(self, x: torch.Tensor, column: int, n_sources: int) -> torch.Tensor | None:
        for _, inputs in self._inputs(x, slice(column, column + 1), n_sources):
            return inputs.to(x.dtype)
        return None

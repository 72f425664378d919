"""Runs of a model with hooks on it: what every source writes, and the logits where they are read.

Hooks exist inside context managers only, and the model's own code, attention implementation and
weights are used as they are. What is changed for the time of a run, in the ungrouped graph only, is
where keys and values are copied for the query heads that share them (analysis/models/copies.py).

Shape legend: B pairs, T positions, N places where the metric is read, d residual width, H query
heads, e head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from analysis.models.anatomy import Anatomy, Heads, Node
from analysis.models.hooks import Hooks
from analysis.models.linear import wide
from analysis.prompts.pairs import Batch


def run(parts: Anatomy, ids: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Run the model on ids [B, T]; logits where the metric is read: [N, V].

    What the decoder hands on is cut down to the places that are read, and the model's own code
    makes it into logits. Batches are padded on the right, where no token of a causal model looks:
    without a padding mask attention keeps its fast path, and no padded row is left without anything
    to attend to.
    """
    with Hooks() as hooks:
        hooks.output(parts.decoder, lambda hidden: hidden[batch.rows, batch.positions][None])
        return wide(logits_of(parts.causal_lm(input_ids=ids, use_cache=False)))[0]


def logits_of(output: object) -> torch.Tensor:
    """The logits in what a causal language model returns."""
    logits: torch.Tensor = output.logits if hasattr(output, "logits") else output[0]  # type: ignore[index]
    return logits


@dataclass
class Sources:
    """What the sources write in one run, or the difference of that between two runs.

    embedding: [B, T, d];  zr: for each of `Anatomy.heads` [B, T, H * e], the input of the output
    projection times the scale of the norm after the branch, if there is one;  nodes: for each of
    `Anatomy.nodes` [B, T, d]
    """

    embedding: torch.Tensor
    zr: list[torch.Tensor]
    nodes: list[torch.Tensor]


def record_sources(hooks: Hooks, parts: Anatomy) -> Sources:
    """Hooks that fill the lists of the returned object during the next run."""
    nothing = torch.empty(0)
    seen = Sources(nothing, [nothing] * len(parts.heads), [nothing] * len(parts.nodes))
    # copies, as some layers add to their input or to a part's output in place
    hooks.input(parts.layers[0], lambda x: setattr(seen, "embedding", x.detach().clone()))
    for index, (_, heads) in enumerate(parts.heads):
        hooks.input(heads.o_proj, partial(_keep_z, seen, index))
        if heads.after is not None:
            hooks.output(heads.o_proj, partial(_scale_z, seen, index, heads))
    for index, (_, _, node) in enumerate(parts.nodes):
        watch_node(hooks, node, partial(_keep_node, seen, index))
    return seen


def _keep_z(seen: Sources, index: int, z: torch.Tensor) -> None:
    seen.zr[index] = z.detach().reshape(*seen.embedding.shape[:2], -1)


def _scale_z(seen: Sources, index: int, heads: Heads, attention: torch.Tensor) -> None:
    assert heads.after is not None
    rstd = heads.after.rstd(attention.detach()).view(*seen.embedding.shape[:2], 1)
    seen.zr[index] = wide(heads.extended(seen.zr[index])) * rstd


def _keep_node(seen: Sources, index: int, output: torch.Tensor) -> None:
    seen.nodes[index] = output.reshape(seen.embedding.shape)


class _Outputs:
    """Collect the outputs of a node's modules; `see` gets their sum once all are there."""

    def __init__(self, hooks: Hooks, node: Node, see: Callable[[torch.Tensor], None]) -> None:
        self.node, self.see = node, see
        self.found: dict[int, torch.Tensor] = {}
        for index, (module, _) in enumerate(node.writes):
            hooks.output(module, partial(self._add, index))

    def _add(self, index: int, output: torch.Tensor) -> None:
        self.found[index] = output.detach().clone()
        if len(self.found) == len(self.node.writes):
            ordered = [self.found.pop(place) for place in range(len(self.node.writes))]
            first = ordered[0]
            self.see(self.node.output([output.reshape(first.shape) for output in ordered]))


def watch_node(hooks: Hooks, node: Node, see: Callable[[torch.Tensor], None]) -> None:
    """Call `see` with what a node writes in the next run, once its last module has run."""
    _Outputs(hooks, node, see)


@torch.no_grad()
def source_run(parts: Anatomy, ids: torch.Tensor, batch: Batch) -> tuple[Sources, torch.Tensor]:
    """Run the model; what its sources wrote, and the logits [N, V]."""
    with Hooks() as hooks:
        seen = record_sources(hooks, parts)
        return seen, run(parts, ids, batch)


@torch.no_grad()
def run_decoder(parts: Anatomy, ids: torch.Tensor, whole: bool = False) -> None:
    """Run the model on ids [B, T] for what hooks see of it; logits of one token only, or all."""
    with Hooks() as hooks:
        if not whole:
            hooks.output(parts.decoder, lambda hidden: hidden[:1, :1])
        parts.causal_lm(input_ids=ids, use_cache=False)

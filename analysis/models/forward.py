"""Runs of a model with hooks on it: what every source writes, and whether it all adds up.

Hooks exist inside context managers alone, and the model's own code, attention implementation and
weights are used as they are. The one thing that is changed for the time of a run, in the ungrouped
graph, is where keys and values are copied for the query heads that share them: at the projection's
output instead of inside the attention, so that each query head's copy has a gradient of its own.

Shape legend: B pairs, T positions, N places where the metric is read, d residual width, H query
heads, e head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from analysis.models.anatomy import Anatomy, Norm, wide
from analysis.models.compat import group_size, set_group_size
from analysis.models.hooks import Hooks
from analysis.prompts.pairs import Batch


@contextmanager
def ungrouped(parts: Anatomy) -> Iterator[None]:
    """In the ungrouped graph, copy keys and values at their projections' output; else nothing."""
    if parts.graph.kv == "grouped" or parts.graph.n_kv_heads == parts.graph.n_heads:
        yield
        return
    groups = [group_size(block.attention) for block in parts.blocks]
    try:
        with Hooks() as hooks:
            for block in parts.blocks:
                set_group_size(block.attention, 1)
                for side in block.sides[1:]:
                    hooks.output(side.module, side.repeat)
            yield
    finally:
        for block, size in zip(parts.blocks, groups, strict=True):
            set_group_size(block.attention, size)


def run(parts: Anatomy, ids: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Run the model on ids [B, T]; logits where the metric is read: [N, V].

    Batches are padded on the right, where no token of a causal model looks: without a padding mask
    attention keeps its fast path, and no padded row is left without anything to attend to.
    """
    hidden = parts.decoder(input_ids=ids, use_cache=False).last_hidden_state
    return parts.logits(hidden[batch.rows, batch.positions])


@dataclass
class Sources:
    """What the sources write in one run, or the difference of that between two runs.

    embedding: [B, T, d];  zr: per layer [B, T, H * e], the input of `o_proj` times the scale of the
    norm after the branch, if there is one;  mlp: per layer [B, T, d]
    """

    embedding: torch.Tensor
    zr: list[torch.Tensor]
    mlp: list[torch.Tensor]


def record_sources(hooks: Hooks, parts: Anatomy) -> Sources:
    """Hooks that fill the lists of the returned object during the next run."""
    seen = Sources(torch.empty(0), [], [])
    hooks.input(parts.layers[0], lambda x: setattr(seen, "embedding", x.detach()))
    for block in parts.blocks:
        hooks.input(block.o_proj, lambda z: seen.zr.append(z.detach()))
        if block.post_attention_norm is not None:
            hooks.output(block.o_proj, partial(_scale_z, seen, block.post_attention_norm))
        hooks.output(block.mlp_branch, lambda o: seen.mlp.append(o.detach()))
    return seen


def _scale_z(seen: Sources, norm: Norm, attention: torch.Tensor) -> None:
    seen.zr[-1] = wide(seen.zr[-1]) * norm.rstd(attention.detach())


@torch.no_grad()
def source_run(parts: Anatomy, ids: torch.Tensor, batch: Batch) -> tuple[Sources, torch.Tensor]:
    """Run the model; what its sources wrote, and the logits [N, V]."""
    with Hooks() as hooks:
        seen = record_sources(hooks, parts)
        return seen, run(parts, ids, batch)

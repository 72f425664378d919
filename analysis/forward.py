"""Runs of a model with hooks on it: what every source writes, and whether it all adds up.

Hooks exist inside context managers alone, and the model's own code, attention implementation and
weights are used as they are. The one thing that is changed for the time of a run, in the ungrouped
graph, is where keys and values are copied for the query heads that share them: at the projection's
output instead of inside the attention, so that each query head's copy has a gradient of its own.

Shape legend: B pairs, T positions, N places where the metric is read, d residual width, H query
heads, e head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from analysis.anatomy import Anatomy, Norm, linear_bias, wide
from analysis.pairs import Batch, Pair, Pairs, collate

CHECKED_TOKENS = 8


class Hooks:
    """Hooks on modules for the time of a `with` block."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def output(self, module: nn.Module, see: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Call `see` with a module's output; what it returns, if anything, replaces it."""
        self._handles.append(module.register_forward_hook(lambda m, i, o: see(o)))

    def input(self, module: nn.Module, see: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Call `see` with a module's hidden states; what it returns, if anything, replaces them."""

        def hook(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            new = see(args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            if args:
                return (new, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": new}

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))


@contextmanager
def ungrouped(parts: Anatomy) -> Iterator[None]:
    """In the ungrouped graph, copy keys and values at their projections' output; else nothing."""
    if parts.graph.kv == "grouped" or parts.graph.n_kv_heads == parts.graph.n_heads:
        yield
        return
    groups = [block.attention.num_key_value_groups for block in parts.blocks]
    try:
        with Hooks() as hooks:
            for block in parts.blocks:
                block.attention.num_key_value_groups = 1
                for side in block.sides[1:]:
                    hooks.output(side.module, side.repeat)
            yield
    finally:
        for block, size in zip(parts.blocks, groups, strict=True):
            block.attention.num_key_value_groups = size


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


@torch.no_grad()
def check_model(parts: Anatomy, pairs: Pairs) -> None:
    """Raise ValueError, naming the place, unless the model's parts add up on a prompt's start."""
    ids = pairs[0].clean_ids[:CHECKED_TOKENS]
    batch = collate([Pair(ids, ids)]).to(next(parts.causal_lm.parameters()).device)
    with Hooks() as hooks:
        audit = Audit(parts, hooks, len(ids))
        seen, _ = source_run(parts, batch.clean, batch)
    audit.verify(seen)


class Audit:
    """Check, on a few tokens of a run, that a model's parts add up to what the model computed.

    Checked: the heads add up to the attention output, the sources to the residual stream at every
    norm, and norms and projections are what Anatomy says.
    """

    def __init__(self, parts: Anatomy, hooks: Hooks, tokens: int) -> None:
        self.parts, self.tokens = parts, min(tokens, CHECKED_TOKENS)
        self._at: dict[nn.Module, torch.Tensor] = {}
        self._out: dict[nn.Module, torch.Tensor] = {}
        for norm in [parts.final_norm, *(n for b in parts.blocks for n in b.norms)]:
            hooks.input(norm.module, partial(self._keep, self._at, norm.module))
        for block in parts.blocks:
            for module in (*block.readers, block.attention_branch):
                hooks.output(module, partial(self._keep, self._out, module))

    def _keep(self, where: dict[Any, torch.Tensor], module: nn.Module, x: torch.Tensor) -> None:
        where[module] = self._few(x.detach()).clone()

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        return wide(x[:1, : self.tokens])

    @torch.no_grad()
    def verify(self, seen: Sources) -> None:
        """Compare what was kept with what the sources of that run give.

        Raises:
            ValueError: something does not add up or is not finite; the place is named.
        """
        same = _Same(seen.embedding.dtype)
        stream = self._few(seen.embedding)
        for index, block in enumerate(self.parts.blocks):
            where = f"layer {index}: "
            norm = block.attention_norm
            x = self._at[norm.module]
            same(where + "residual stream before the attention", x, stream)
            y = norm.gain * norm.centre(x) * norm.rstd(x)
            for side, name in zip(block.sides, ("q", "k", "v"), strict=True):
                expected = torch.einsum("btd,hed->bthe", y, side.weight).flatten(-2)
                expected = expected if side.offset is None else expected + side.offset
                actual = self._out[side.module][..., side.features]
                same(where + f"the {name} projection of the normalised input", actual, expected)
            zr = self._few(seen.zr[index]).unflatten(-1, (block.n_heads, -1))
            heads = torch.einsum("bthe,hed->btd", zr, block.W_O)
            bias = linear_bias(block.o_proj)
            heads = heads if bias is None else heads + wide(bias)
            attention = self._out[block.attention_branch]
            same(where + "sum of the heads' outputs", attention, heads)
            stream = stream + attention
            same(where + "residual stream before the MLP", self._at[block.mlp_norm.module], stream)
            stream = stream + self._few(seen.mlp[index])
        same(
            "residual stream before the final norm", self._at[self.parts.final_norm.module], stream
        )


class _Same:
    """Compare what the model computed with what its parts give."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 0.1

    def __call__(self, what: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
        if not bool(torch.isfinite(actual).all()):
            raise ValueError(
                f"{what}: not finite. The model's weights or activations hold NaN or infinity; "
                "check the checkpoint, or use a wider dtype"
            )
        error = float((wide(actual) - expected).abs().max())
        scale = float(wide(actual).abs().max())
        if not error <= self.tolerance * scale + 1e-12:
            raise ValueError(
                f"{what}: the model's parts do not add up (off by {error:.2g} of "
                f"{scale:.2g}), so the hooks don't see what they should, and attribution would "
                "give wrong numbers. The modelling code differs from the supported architectures'"
            )

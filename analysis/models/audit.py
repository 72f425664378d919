"""Check, on a few tokens of a run, that a model's parts add up to what the model computes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from analysis.models.anatomy import Anatomy, linear_bias, wide
from analysis.models.forward import Sources, source_run
from analysis.models.hooks import Hooks
from analysis.prompts.pairs import Pair, Pairs, collate

CHECKED_TOKENS = 8


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

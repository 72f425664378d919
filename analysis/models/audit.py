"""Check, on a few tokens of a run, that a model's parts add up to what the model computes."""

from __future__ import annotations

from functools import partial

import torch

from analysis.models.anatomy import Anatomy, Block, Heads, Reading, Unsupported
from analysis.models.forward import Sources, source_run
from analysis.models.hooks import Hooks
from analysis.models.linear import linear_bias, wide
from analysis.prompts.pairs import Pair, Pairs, collate

CHECKED_TOKENS = 8
_TOKENS_FOR_A_BIAS = 4


@torch.no_grad()
def check_model(parts: Anatomy, pairs: Pairs) -> None:
    """Raise ValueError, naming the place, unless the model's parts add up on a prompt's start."""
    ids = pairs[0].clean_ids[:CHECKED_TOKENS]
    batch = collate([Pair(ids, ids)]).to(parts.device)
    with Hooks() as hooks:
        audit = Audit(parts, hooks, len(ids))
        seen, _ = source_run(parts, batch.clean, batch)
    audit.verify(seen)


class Audit:
    """Check, on a few tokens of a run, that a model's parts add up to what the model computed.

    Checked: the heads add up to the attention output, the sources to the residual stream wherever
    it is read, and norms and projections are what Anatomy says.
    """

    def __init__(self, parts: Anatomy, hooks: Hooks, tokens: int) -> None:
        self.parts, self.tokens = parts, min(tokens, CHECKED_TOKENS)
        self._shape = (0, 0)
        self._at: dict[object, torch.Tensor] = {}
        hooks.input(parts.layers[0], self._start)
        for block in parts.blocks:
            for reading in block.readings:
                hooks.input(reading.place, partial(self._keep, ("input", reading.place)))
                for module in reading.modules:
                    hooks.output(module, partial(self._keep, ("output", module)))
            for heads in block.heads:
                hooks.output(heads.branch, partial(self._keep, ("output", heads.branch)))
            for node in block.nodes:
                for tap in node.taps:
                    hooks.input(tap.place, partial(self._keep, ("input", tap.place)))
        hooks.output(parts.layers[-1], partial(self._keep, "end"))

    def _start(self, x: torch.Tensor) -> None:
        self._shape = x.shape[0], x.shape[1]

    def _keep(self, key: object, x: torch.Tensor) -> None:
        self._at[key] = self._few(x.detach().reshape(*self._shape, -1)).clone()

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        return wide(x[:1, : self.tokens])

    @torch.no_grad()
    def verify(self, seen: Sources) -> None:
        """Compare what was kept with what the sources of that run give.

        Raises:
            ValueError: something does not add up or is not finite; the place is named.
        """
        same = _Same(seen.embedding.dtype)
        stream = self._few(seen.embedding)  # in the units of what is written
        zr, nodes = iter(seen.zr), iter(seen.nodes)
        for block in self.parts.blocks:
            where = f"layer {block.layer}: "
            written = [
                (part.point, self._heads(same, where, part, next(zr))) for part in block.heads
            ]
            written += [(node.point, self._few(next(nodes))) for node in block.nodes]
            shape = self.parts.graph.shapes[block.layer]
            for point in range(shape.points + 1):
                for _, change in (entry for entry in written if entry[0] == point):
                    stream = stream + change
                stream = self._point(same, where, block, point, stream)
        gauge = self.parts.gauge
        last = stream if gauge is None else stream * gauge
        same("residual stream after the last layer", self._at["end"], last)

    def _point(
        self, same: _Same, where: str, block: Block, point: int, X: torch.Tensor
    ) -> torch.Tensor:
        """What reads the stream at one point, against the sum of what was written: that sum."""
        for reading in block.readings:
            if reading.point == point:
                x, gauge = self._at["input", reading.place], reading.gauge
                what = where + "residual stream before the attention"
                X = self._settled(same, what, x, X, 1.0 if gauge is None else gauge)
                self._projections(same, where, reading, x)
        for node in block.nodes:
            for tap in node.taps:
                if tap.point == point:
                    factor = 1.0 if tap.gauge is None else tap.gauge
                    factor = factor if tap.norm is not None else factor * tap.scale
                    name = "the MLP" if node.letter == "m" else "the mixer"
                    what = where + f"residual stream before {name}"
                    X = self._settled(same, what, self._at["input", tap.place], X, factor)
        return X

    def _settled(
        self,
        same: _Same,
        what: str,
        actual: torch.Tensor,
        X: torch.Tensor,
        factor: float | torch.Tensor,
    ) -> torch.Tensor:
        """X, with what the layers have added to it that is the same at all tokens.

        Such a bias is no part of an edge. Of a token or two nothing could be told from it.
        """
        constant = (actual - X * factor).mean(1, keepdim=True)
        if self.tokens < _TOKENS_FOR_A_BIAS or not bool(torch.isfinite(constant).all()):
            constant = torch.zeros_like(constant)
        same(what, actual, X * factor + constant)
        return X + constant / factor

    def _projections(self, same: _Same, where: str, reading: Reading, x: torch.Tensor) -> None:
        y = x if reading.norm is None else reading.norm.apply(x)
        for side, offset in zip(reading.sides, reading.offsets, strict=True):
            expected = torch.einsum("btd,hed->bthe", y, side.weight)
            expected = expected if offset is None else expected + offset
            actual = side.seen(self._at["output", side.module])
            what = f"the {side.letter} projection of the normalised input"
            same(where + what, actual, expected)

    def _heads(self, same: _Same, where: str, heads: Heads, zr: torch.Tensor) -> torch.Tensor:
        """What an output projection writes: the sum of its heads, and its bias."""
        total = heads.written(self._few(zr)).sum(0)
        branch = self._at["output", heads.branch] * heads.scale
        if heads.linear_after is None and heads.after is None:
            bias = linear_bias(heads.o_proj)
            total = total if bias is None else total + wide(bias) * heads.scale
        elif heads.after is not None:
            bias = heads.after.bias
            total = total if bias is None else total + bias * heads.scale
        else:
            total = total + (branch - total)[:, :1]
        same(where + "sum of the heads' outputs", branch, total)
        return branch


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
            raise Unsupported(
                f"{what}: the model's parts do not add up (off by {error:.2g} of "
                f"{scale:.2g}), so the hooks don't see what they should, and attribution would "
                "give wrong numbers"
            )

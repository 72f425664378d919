"""Gradients of the metric at every destination, summed over the steps in the projections' space.

A destination's input lies before its norm. For the MLP and the logits, which have a norm to
themselves, the norm is handed an alias of the residual stream, whose gradient is exactly that of
the direct edge. The q, k and v heads of a layer share a norm. With x the layer's input at a step,
xc = x (less its mean, for a LayerNorm), r = 1 / rms(xc), n = gain * xc * r,
y = W n + b a projection's output for one head and g the gradient there, the vector-Jacobian
product of the norm splits:

    J^T W^T g  =  gain * W^T (r g)  -  xc (r^2 / d) <y - b, g>

so that over the steps only r g is summed, head width instead of residual width, and one scalar per
head, token and step, c = -(r^2 / d) <y - b, g>, goes with that step's x. W^T is applied once, after
the last step.
The layers' sides stand side by side: q, then k, then v, W destinations in all.

Shape legend: B pairs, T positions, d residual width, e head width, W attention destinations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from analysis.models.anatomy import Anatomy, Block, Projection, wide
from analysis.models.hooks import Hooks


class LayerSums:
    """One layer's sums: `g` [B, T, W e]; per step `c` [B, T, W] and `x` [B, T, d]; `mlp` [B, T, d].

    None or empty where no gradient has arrived.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.width = sum(side.width for side in block.sides)
        self.clear()

    def clear(self) -> None:
        self.g: torch.Tensor | None = None
        self.c: list[torch.Tensor] = []
        self.x: list[torch.Tensor] = []
        self.mlp: torch.Tensor | None = None

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Begin a step, whose layer input is x; r of its norm: [B, T, 1]."""
        self.x.append(x)
        r = self.block.attention_norm.rstd(x)
        self.c.append(r.new_zeros(*x.shape[:2], self.width))
        return r

    def add(
        self, side: Projection, y: torch.Tensor, gradient: torch.Tensor, r: torch.Tensor, w: float
    ) -> None:
        """Add the gradient at a side's output y [B, T, width * e], times w, to the last step."""
        e, d, c = side.head_dim, self.x[-1].shape[-1], self.c[-1]
        if self.g is None:
            self.g = gradient.new_zeros(*c.shape[:2], self.width * e)
        first, end = side.columns.start * e, side.columns.stop * e
        self.g[..., first:end].addcmul_(gradient, r, value=w)
        if side.offset is not None:
            y = y - side.offset
        dots = (y * gradient).unflatten(-1, (side.width, e)).sum(-1)
        c[..., side.columns] = dots.mul_(r.square() * (-w / d))


class GradientSums:
    """The sums of all layers, and `logits` [B, T, d] for the final norm's input.

    While `hooks` live, the backward pass of every run with gradients is added, times `weight`. The
    attention of the layers below `first_attention` is left out.
    """

    def __init__(self, parts: Anatomy, hooks: Hooks) -> None:
        self.layers = [LayerSums(block) for block in parts.blocks]
        self.logits: torch.Tensor | None = None
        self.weight = 1.0
        self.first_attention = 0
        self._r = torch.empty(0)
        for index, layer in enumerate(self.layers):
            self._watch(hooks, index, layer)
        hooks.input(parts.final_norm.module, lambda x: _alias(x, self._add_logits))

    @property
    def n_steps(self) -> int:
        """Runs whose layer inputs are kept."""
        return len(self.layers[0].x)

    def clear(self) -> None:
        """Forget what was summed."""
        self.logits = None
        for layer in self.layers:
            layer.clear()

    def _watch(self, hooks: Hooks, index: int, layer: LayerSums) -> None:
        block = layer.block

        def start(x: torch.Tensor) -> None:
            if x.requires_grad:
                self._r = layer.start(x.detach())

        def watch_output(y: torch.Tensor, sides: list[Projection]) -> None:
            if not y.requires_grad or index < self.first_attention:
                return
            # y.detach(), not y: a hook that held y would keep y's own graph alive
            r, weight, value = self._r, self.weight, y.detach()

            def add(gradient: torch.Tensor) -> None:
                for side in sides:
                    y_side, g_side = (wide(t[..., side.features]) for t in (value, gradient))
                    layer.add(side, y_side, g_side, r, weight)

            y.register_hook(add)

        def add_mlp(gradient: torch.Tensor) -> None:
            layer.mlp = _add(layer.mlp, gradient, self.weight)

        hooks.input(block.attention_norm.module, start)
        for module, sides in block.readers.items():
            hooks.output(module, partial(watch_output, sides=sides))
        hooks.input(block.mlp_norm.module, lambda x: _alias(x, add_mlp))

    def _add_logits(self, gradient: torch.Tensor) -> None:
        self.logits = _add(self.logits, gradient, self.weight)


def _alias(x: torch.Tensor, see: Callable[[torch.Tensor], None]) -> torch.Tensor | None:
    """The same values, whose gradient is that of one reader alone; `see` is called with it."""
    if not x.requires_grad:
        return None
    alias = x.view_as(x)
    alias.register_hook(see)
    return alias


def _add(total: torch.Tensor | None, gradient: torch.Tensor, weight: float) -> torch.Tensor:
    if total is None:
        return wide(gradient) * weight
    return total.add_(wide(gradient), alpha=weight)

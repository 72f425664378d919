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

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from analysis.models.anatomy import Anatomy, Block, Projection, wide
from analysis.models.hooks import Hooks


class LayerSums:
    """One layer's sums: `g` [B, T, W e]; per step `c` [B, T, W] and `x` [B, T, d]; `mlp` [B, T, d].

    None or empty where no gradient has arrived. `r` [B, T, 1] is that of the last step.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.width = sum(side.width for side in block.sides)
        self.clear()

    def clear(self) -> None:
        """Forget what was summed."""
        self.g: torch.Tensor | None = None
        self.c: list[torch.Tensor] = []
        self.x: list[torch.Tensor] = []
        self.r = torch.empty(0)
        self.mlp: torch.Tensor | None = None

    def start(self, x: torch.Tensor) -> None:
        """Begin a step, whose layer input is x [B, T, d]."""
        x = x.detach()
        self.x.append(x)
        self.r = self.block.attention_norm.rstd(x)
        self.c.append(self.r.new_zeros(*x.shape[:2], self.width))

    def watch_output(self, y: torch.Tensor, sides: list[Projection], weight: float) -> None:
        """Add the gradient that will arrive at a module's output, which these sides share."""
        # y.detach(), not y: a hook that held y would keep y's own graph alive
        y.register_hook(partial(self._add_sides, y.detach(), sides, weight))

    def watch_mlp(self, x: torch.Tensor, weight: float) -> torch.Tensor:
        """The same input for the MLP's norm, with a gradient of its own, which will be added."""
        return _alias(x, partial(self._add_mlp, weight))

    def _add_sides(
        self, y: torch.Tensor, sides: list[Projection], weight: float, gradient: torch.Tensor
    ) -> None:
        for side in sides:
            y_side, g_side = (wide(t[..., side.features]) for t in (y, gradient))
            self.add(side, y_side, g_side, weight)

    def add(self, side: Projection, y: torch.Tensor, gradient: torch.Tensor, w: float) -> None:
        """Add the gradient at a side's output y [B, T, width * e], times w, to the last step."""
        e, d, c = side.head_dim, self.x[-1].shape[-1], self.c[-1]
        if self.g is None:
            self.g = gradient.new_zeros(*c.shape[:2], self.width * e)
        first, end = side.columns.start * e, side.columns.stop * e
        self.g[..., first:end].addcmul_(gradient, self.r, value=w)
        if side.offset is not None:
            y = y - side.offset
        dots = (y * gradient).unflatten(-1, (side.width, e)).sum(-1)
        c[..., side.columns] = dots.mul_(self.r.square() * (-w / d))

    def _add_mlp(self, weight: float, gradient: torch.Tensor) -> None:
        self.mlp = _add(self.mlp, gradient, weight)


class GradientSums:
    """The sums of all layers, and `logits` [B, T, d] for the final norm's input."""

    def __init__(self, parts: Anatomy) -> None:
        self.layers = [LayerSums(block) for block in parts.blocks]
        self.logits: torch.Tensor | None = None
        self._final_norm = parts.final_norm.module

    @property
    def n_steps(self) -> int:
        """Steps whose layer inputs are kept."""
        return len(self.layers[0].x)

    def clear(self) -> None:
        """Forget what was summed."""
        self.logits = None
        for layer in self.layers:
            layer.clear()

    @contextmanager
    def step(self, weight: float, first_attention: int = 0) -> Iterator[Hooks]:
        """Add the gradients of the one run inside, forward and backward, times `weight`.

        The attention of the layers below `first_attention` is left out. The hooks that are given
        live as long as the step.
        """
        with Hooks() as hooks, torch.enable_grad():
            for index, layer in enumerate(self.layers):
                block = layer.block
                hooks.input(block.attention_norm.module, layer.start)
                watched = block.readers if index >= first_attention else {}
                for module, sides in watched.items():
                    see = partial(layer.watch_output, sides=sides, weight=weight)
                    hooks.output(module, see)
                hooks.input(block.mlp_norm.module, partial(layer.watch_mlp, weight=weight))
            hooks.input(self._final_norm, partial(_alias, see=partial(self._add_logits, weight)))
            yield hooks

    def _add_logits(self, weight: float, gradient: torch.Tensor) -> None:
        self.logits = _add(self.logits, gradient, weight)


def _alias(x: torch.Tensor, see: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """The same values, whose gradient is that of one reader alone; `see` is called with it."""
    alias = x.view_as(x)
    alias.register_hook(see)
    return alias


def _add(total: torch.Tensor | None, gradient: torch.Tensor, weight: float) -> torch.Tensor:
    if total is None:
        return wide(gradient) * weight
    return total.add_(wide(gradient), alpha=weight)

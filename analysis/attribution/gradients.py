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
A reading's sides stand side by side, each with its destinations' rows: W destinations, R rows in
all. Without a norm r is 1 and there is no c. What stands in a norm's place and has no such form (a
`Map`) is pulled back in each step, and the gradients at the stream are summed.

Shape legend: B pairs, T positions, d residual width, W destinations and R rows of one reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from analysis.models.anatomy import Anatomy, Node, Reading, Tap
from analysis.models.hooks import Hooks
from analysis.models.linear import wide
from analysis.models.maps import Map


class ReadingSums:
    """One reading's sums: `g` [B, T, R]; per step `c` [B, T, W] and `x` [B, T, d].

    None or empty where no gradient has arrived. `r` [B, T, 1] is that of the last step.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading, self.width = reading, reading.width
        first = 0
        self.places: list[slice] = []  # of each side among the rows
        for side in reading.sides:
            self.places.append(slice(first, first + side.width * side.n_rows))
            first = self.places[-1].stop
        self.n_rows = first
        self.clear()

    def clear(self) -> None:
        """Forget what was summed."""
        self.g: torch.Tensor | None = None
        self.c: list[torch.Tensor] = []
        self.x: list[torch.Tensor] = []
        self.r = torch.empty(0)

    def start(self, shape: tuple[int, int], x: torch.Tensor) -> None:
        """Begin a step, in which the stream is x [B, T, d]."""
        norm = self.reading.norm
        if norm is None:
            return
        assert not isinstance(norm, Map)
        x = x.detach().reshape(*shape, -1)
        self.x.append(x)
        self.r = norm.rstd(x)
        self.c.append(self.r.new_zeros(*shape, self.width))

    def watch_output(
        self, shape: tuple[int, int], sides: list[int], weight: float, y: torch.Tensor
    ) -> None:
        """Add the gradient that will arrive at a module's output, which these sides share."""
        # y.detach(), not y: a hook that held y would keep y's own graph alive
        y.register_hook(partial(self._add_sides, shape, y.detach(), sides, weight))

    def _add_sides(
        self,
        shape: tuple[int, int],
        y: torch.Tensor,
        sides: list[int],
        weight: float,
        gradient: torch.Tensor,
    ) -> None:
        y, gradient = (t.reshape(*shape, -1) for t in (y, gradient))
        for index in sides:
            side = self.reading.sides[index]
            self._add(index, wide(side.seen(y)), wide(side.seen(gradient)), weight)

    def _add(self, index: int, y: torch.Tensor, gradient: torch.Tensor, w: float) -> None:
        """Add the gradient at a side's output y [B, T, width, w], times w, to the last step."""
        side, norm = self.reading.sides[index], self.reading.norm
        if self.g is None:
            self.g = gradient.new_zeros(*gradient.shape[:2], self.n_rows)
        place = self.g[..., self.places[index]].unflatten(-1, gradient.shape[2:])
        if norm is None:
            place.add_(gradient, alpha=w)
            return
        place.addcmul_(gradient, self.r[..., None], value=w)
        assert not isinstance(norm, Map)
        if norm.frozen:
            return
        offset = self.reading.offsets[index]
        if offset is not None:
            y = y - offset
        dots = (y * gradient).sum(-1)
        self.c[-1][..., side.columns] = dots.mul_(self.r.square() * (-w / self.x[-1].shape[-1]))


class MapSums(ReadingSums):
    """The sums of a reading through a `Map`: `at`, the gradient at the stream, [W, B, T, d]."""

    def clear(self) -> None:
        """Forget what was summed."""
        super().clear()
        self.at: torch.Tensor | None = None

    def start(self, shape: tuple[int, int], x: torch.Tensor) -> None:
        """Begin a step, in which the stream is x [B, T, d]."""
        self.x = [x.detach().reshape(*shape, -1)]

    def _add(self, index: int, y: torch.Tensor, gradient: torch.Tensor, w: float) -> None:
        side, through, (x,) = self.reading.sides[index], self.reading.norm, self.x
        assert isinstance(through, Map)
        at = torch.einsum("btwr,wrd->wbtd", gradient, side.weight)
        if self.at is None:
            self.at = at.new_zeros(self.width, *at.shape[1:])
        self.at[side.columns].add_(through.pull_back(x.expand_as(at), at), alpha=w)


class NodeSums:
    """A node's sums: for each of its taps the gradient at the stream, [B, T, d], or None."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.clear()

    def clear(self) -> None:
        """Forget what was summed."""
        self.taps: list[torch.Tensor | None] = [None] * len(self.node.taps)
        self._x: list[torch.Tensor | None] = [None] * len(self.node.taps)

    def watch(self, hooks: Hooks, shape: Callable[[], tuple[int, int]], weight: float) -> None:
        """Hooks that add the gradients of the next run, times `weight`."""
        for index, tap in enumerate(self.node.taps):
            if tap.norm is not None:
                hooks.input(tap.norm.module, partial(self._keep, index))
            see = partial(self._add, index, tap, shape, weight)
            hooks.input(tap.module, partial(_alias, see=see))

    def _keep(self, index: int, x: torch.Tensor) -> None:
        self._x[index] = x.detach()

    def _add(
        self,
        index: int,
        tap: Tap,
        shape: Callable[[], tuple[int, int]],
        weight: float,
        gradient: torch.Tensor,
    ) -> None:
        gradient = gradient.reshape(*shape(), -1)
        x = self._x[index]
        if tap.norm is not None:
            assert x is not None
            gradient = tap.norm.pull_back(x.reshape(gradient.shape), gradient)
        if tap.gauge is not None:
            gradient = wide(gradient) * tap.gauge
        self.taps[index] = _add(self.taps[index], gradient, weight * tap.scale)


class GradientSums:
    """The sums of all layers, and `logits` [B, T, d] for what leaves the last one."""

    def __init__(self, parts: Anatomy) -> None:
        self.parts = parts
        self.readings = [[_sums(r) for r in block.readings] for block in parts.blocks]
        self.nodes = [[NodeSums(node) for node in block.nodes] for block in parts.blocks]
        self.logits: torch.Tensor | None = None
        self.n_steps = 0  # whose stream is kept
        self._shape = (0, 0)

    def clear(self) -> None:
        """Forget what was summed."""
        self.logits, self.n_steps = None, 0
        for readings, nodes in zip(self.readings, self.nodes, strict=True):
            for reading in readings:
                reading.clear()
            for node in nodes:
                node.clear()

    @contextmanager
    def step(self, weight: float, first_attention: int = 0) -> Iterator[Hooks]:
        """Add the gradients of the one run inside, forward and backward, times `weight`.

        The attention of the layers below `first_attention` is left out. The hooks that are given
        live as long as the step.
        """
        self.n_steps += 1
        with Hooks() as hooks, torch.enable_grad():
            hooks.input(self.parts.layers[0], self._start)
            for layer, readings in enumerate(self.readings):
                for reading in readings:
                    self._watch(hooks, reading, weight if layer >= first_attention else None)
                for node in self.nodes[layer]:
                    node.watch(hooks, lambda: self._shape, weight)
            hooks.output(self.parts.layers[-1], partial(_alias, see=partial(self._end, weight)))
            yield hooks

    def _start(self, x: torch.Tensor) -> None:
        self._shape = x.shape[0], x.shape[1]

    def _watch(self, hooks: Hooks, sums: ReadingSums, weight: float | None) -> None:
        def begin(x: torch.Tensor) -> None:
            if torch.is_grad_enabled():  # else the layer is run again (recomputation.py)
                sums.start(self._shape, x)

        hooks.input(sums.reading.place, begin)
        if weight is None:
            return
        for module, sides in sums.reading.modules.items():

            def see(y: torch.Tensor, sides: list[int] = sides) -> None:
                if torch.is_grad_enabled():
                    sums.watch_output(self._shape, sides, weight, y)

            hooks.output(module, see)

    def _end(self, weight: float, gradient: torch.Tensor) -> None:
        gauge = self.parts.gauge
        gradient = gradient if gauge is None else wide(gradient) * gauge
        self.logits = _add(self.logits, gradient, weight)


def _sums(reading: Reading) -> ReadingSums:
    return MapSums(reading) if isinstance(reading.norm, Map) else ReadingSums(reading)


def _alias(x: torch.Tensor, see: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """The same values, whose gradient is that of one reader only; `see` is called with it."""
    alias = x.view_as(x)
    if alias.requires_grad:
        alias.register_hook(see)
    return alias


def _add(total: torch.Tensor | None, gradient: torch.Tensor, weight: float) -> torch.Tensor:
    if total is None:
        return wide(gradient) * weight
    return total.add_(wide(gradient), alpha=weight)

"""Which nodes of a layer mix tokens, as convolutions and state-space models do: `x`, not `m`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from analysis.detection.plan import NodePlan
from analysis.detection.trace import is_linear
from analysis.models.anatomy import in_force
from analysis.models.hooks import Hooks

Kind = tuple[Any, ...]  # what modules a layer is made of: layers of one kind have the same letters


class MixerFinder:
    """Hooks for one run with gradients, that tell what an earlier token does to a node's last."""

    def __init__(self, layers: list[nn.Module], nodes: list[tuple[NodePlan, ...]]) -> None:
        self._kinds = [tuple(type(module) for module in layer.modules()) for layer in layers]
        self._first = {kind: (layer, own) for kind, layer, own in self._each(layers, nodes)}
        self._nodes = nodes
        self._mixes: dict[tuple[Kind, int], bool] = {}

    def _each(
        self, layers: list[nn.Module], nodes: list[tuple[NodePlan, ...]]
    ) -> Iterator[tuple[Kind, nn.Module, tuple[NodePlan, ...]]]:
        yield from zip(self._kinds, layers, nodes, strict=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, one run of the model, with gradients, finds which nodes mix tokens."""
        with Hooks() as hooks, ExitStack() as stack:
            for kind, (layer, own) in self._first.items():
                for index, node in enumerate(own):
                    look = _Look(hooks, stack, layer, node)

                    finish = partial(self._finish, (kind, index), look)
                    stack.callback(layer.register_forward_hook(finish).remove)
            yield

    def _finish(self, key: tuple[Kind, int], look: _Look, *_: object) -> None:
        self._mixes[key] = look.mixes()

    def letters(self) -> list[tuple[NodePlan, ...]]:
        """The nodes of each layer, with their letters."""
        return [
            tuple(
                replace(node, letter="x" if self._mixes[kind, index] else "m")
                for index, node in enumerate(own)
            )
            for kind, own in zip(self._kinds, self._nodes, strict=True)
        ]


class _Look:
    """What goes into one node and comes out of it, in one run."""

    def __init__(self, hooks: Hooks, stack: ExitStack, layer: nn.Module, node: NodePlan) -> None:
        self._in: list[torch.Tensor] = []
        self._out: list[torch.Tensor] = []
        for tap in node.taps:
            hooks.input(in_force(layer.get_submodule(tap.module)), self._enter)
        for module in layer.modules():
            if is_linear(module):
                stack.callback(module.register_forward_hook(_begun).remove)
        for name in node.writes:
            hooks.output(in_force(layer.get_submodule(name)), self._leave)

    def _enter(self, x: torch.Tensor) -> torch.Tensor:
        self._in.append(x.detach().requires_grad_())
        return self._in[-1] + 0  # not the leaf itself, on which nothing may work in place

    def _leave(self, y: torch.Tensor) -> None:
        self._out.append(y)

    def mixes(self) -> bool:
        """Whether the last token's output depends on what an earlier token's input was."""
        out = [y.reshape(*self._in[0].shape[:2], -1) for y in self._out if y.requires_grad]
        if not out:
            return False
        last = torch.stack([y[:, -1].float().square().sum() for y in out]).sum()
        found = torch.autograd.grad(last, self._in, allow_unused=True)
        self._in, self._out = [], []
        return any(g is not None and g.dim() > 2 and bool(g[:, :-1].any()) for g in found)


def _begun(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
    """A projection that begins at 0 would tell nothing of what enters it."""
    if not isinstance(output, torch.Tensor) or bool(output.any()):
        return None
    return output + args[0].sum(-1, keepdim=True).to(output.dtype)

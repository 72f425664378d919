"""Heads of linear attention: gated delta rules, Mamba-2, KDA. What a mixer writes, head by head.

Such a mixer has an output projection too, and a head is a block of that module's columns, as in an
attention. How many there are is no shape that can be read off, so the numbers of the configuration
and of the module are tried, the largest first. H blocks are heads if

    each has rows of the input projections that reach it and no other block, and
    among these is one, for each, that reaches both halves of the block:

so a convolution, whose channels know nothing of each other, has no heads, nor has a Mamba, whose
channels all share what they read; and two heads are not taken for one where finer blocks will do.
A mixer whose blocks are not proved stays one node.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from analysis.detection.parts import Attention
from analysis.detection.plan import SidePlan
from analysis.detection.rows import REACHES, Probe, RowFinder, Seen

MOST_HEADS = 1024


class LinearHeads(RowFinder):
    """Hooks for one run, that give the sides of mixers with heads; none where heads are not proved.

    The attentions' `n_heads` are set.
    """

    def __init__(
        self, layers: list[nn.Module], mixers: list[list[Attention]], config: dict[str, Any]
    ) -> None:
        super().__init__(layers, mixers)
        self._numbers = set(_integers(config))
        self._counts: dict[tuple[type, int], int] = {}  # by kind and width; 0 for no heads

    def _constant(self, output: torch.Tensor) -> torch.Tensor:
        """Times and decays are what the model makes of them; a projection may begin at 0."""
        return output if bool(output.any()) else super()._constant(output)

    def _sides(self, seen: Seen, where: str) -> list[SidePlan]:
        for count in self._tried(seen):
            seen.attention.n_heads = count
            probe = Probe(seen, self._random)
            if probe.items and self._are_heads(probe, seen):
                self._counts[self._kind(seen)] = count
                return self._once(probe, where)
        seen.attention.n_heads = 0
        self._counts[self._kind(seen)] = 0
        return []

    def _tried(self, seen: Seen) -> list[int]:
        """How many heads there may be: as many as in a mixer of the same kind, if there was one."""
        known = self._counts.get(self._kind(seen))
        if known is not None:
            return [known] if known else []
        own = {v for v in vars(seen.attention.face.call.module).values() if isinstance(v, int)}
        counts = {v for v in own | self._numbers if 1 < v <= MOST_HEADS}
        _, width = self._kind(seen)
        return sorted((v for v in counts if width % v == 0 and v < width), reverse=True)

    def _kind(self, seen: Seen) -> tuple[type, int]:
        assert seen.z is not None
        return type(seen.attention.face.call.module), seen.z.shape[-1]

    def _are_heads(self, probe: Probe, seen: Seen) -> bool:
        halves = self._halves(seen, probe.n_heads)
        whole: set[int] = set()
        own: set[int] = set()
        for name, rows in probe.decoded().items():
            both = [half[name] > REACHES * half[name].amax() for half in halves]
            for row, item in enumerate(rows):
                if isinstance(item, tuple):
                    own.add(item[1])
                    if bool(both[0][row] and both[1][row]):
                        whole.add(item[1])
        return len(own) == len(whole) == probe.n_heads

    def _halves(self, seen: Seen, n_heads: int) -> list[dict[str, torch.Tensor]]:
        """Squared gradients at the rows of cotangents on one half of each block, then the other."""
        assert seen.z is not None
        names, leaves = list(seen.leaves), list(seen.leaves.values())
        found = []
        for half in (0, 1):
            noise = torch.randn(seen.z.shape, generator=self._random)
            blocks = noise.unflatten(-1, (n_heads, -1))
            middle = blocks.shape[-1] // 2
            blocks[..., slice(middle, None) if half == 0 else slice(0, middle)] = 0
            gradients = torch.autograd.grad(
                seen.z, leaves, noise.to(seen.z), retain_graph=True, allow_unused=True
            )
            found.append(
                {
                    name: torch.zeros(leaf.shape[-1])
                    if g is None
                    else g.detach().float().square().flatten(0, -2).sum(0).cpu()
                    for name, leaf, g in zip(names, leaves, gradients, strict=True)
                }
            )
        return found


def _integers(config: dict[str, Any]) -> Iterator[int]:
    for value in config.values():
        if isinstance(value, dict):
            yield from _integers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield value

"""What detection found of a model, in names of modules and rows: a plan to build an Anatomy from.

Names of modules are those inside the layer; `` is the layer itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from analysis.detection.norms import NormForm


@dataclass(frozen=True)
class Rows:
    """Rows of a linear module's output: n destinations of `width` rows each.

    Destination i has first + i * step and what follows; `listed` has all of them where they don't.
    """

    first: int
    n: int
    step: int
    width: int
    listed: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of(cls, rows: list[list[int]]) -> Rows:
        """The rows of each destination, as many for each."""
        n, width, first = len(rows), len(rows[0]), rows[0][0]
        step = rows[1][0] - first if n > 1 else width
        regular = [[first + i * step + j for j in range(width)] for i in range(n)]
        if rows == regular and step > 0:
            return cls(first, n, step, width)
        return cls(first, n, step, width, tuple(map(tuple, rows)))

    @property
    def index(self) -> torch.Tensor:
        """int64 [n, width]"""
        if self.listed is not None:
            return torch.tensor(self.listed)
        return self.first + torch.arange(self.n)[:, None] * self.step + torch.arange(self.width)


@dataclass(frozen=True)
class NormPlan:
    """A norm of the stream, or of what a branch gives; without a form, a `Map` of the stream."""

    module: str
    form: NormForm | None


@dataclass(frozen=True)
class SidePlan:
    """Rows of one linear module, a destination each; `feeds` are heads of the layer."""

    module: str
    letter: str
    of: str  # h, kv, * or +
    rows: Rows
    feeds: tuple[tuple[int, ...], ...]

    def numbered_on(self, first: int) -> SidePlan:
        """The same of an attention whose first head has a number in the layer."""
        return replace(self, feeds=tuple(tuple(h + first for h in feeds) for feeds in self.feeds))


@dataclass(frozen=True)
class ReadingPlan:
    """Sides that read the stream at one point through one norm, times a scale."""

    norm: NormPlan | None
    place: str
    point: int
    scale: float
    sides: tuple[SidePlan, ...] = ()


@dataclass(frozen=True)
class HeadsPlan:
    """The heads of one output projection; `after` is a norm, or the name of a linear module."""

    attention: str
    o_proj: str
    count: int
    after: NormPlan | str | None
    point: int
    kind: str = "softmax"

    @property
    def branch(self) -> str:
        """The module whose output enters the stream."""
        if isinstance(self.after, NormPlan):
            return self.after.module
        return self.o_proj if self.after is None else self.after


@dataclass(frozen=True)
class TapPlan:
    """An input of a node: scale * norm(stream at a point), or of a norm that nobody else reads."""

    module: str
    point: int
    norm: NormPlan | None
    scale: float


@dataclass(frozen=True)
class NodePlan:
    """What else a layer has: it reads through taps, and writes the outputs of modules."""

    letter: str
    taps: tuple[TapPlan, ...]
    writes: tuple[str, ...]
    point: int


@dataclass(frozen=True)
class Held:
    """A number, or one for each channel, that the layer holds: a tensor's value plus `shift`."""

    name: str
    shift: float


if TYPE_CHECKING:
    Share = Any  # in a plan that is not fixed a tensor too
else:
    Share = float | Held  # what a plan's file is read as


@dataclass(frozen=True, eq=False)
class Update:
    """The stream at the next point: kept * the old one + the sum of share * a module's output.

    In a plan that is not fixed a factor may be what was solved for, a number or a tensor [d].
    """

    kept: Share
    shares: dict[str, Share]


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """What one layer has. Point i + 1 is that after `updates[i]`."""

    updates: tuple[Update, ...]
    readings: tuple[ReadingPlan, ...]
    heads: tuple[HeadsPlan, ...]
    nodes: tuple[NodePlan, ...]
    fixed: bool  # whether it holds for this configuration, whatever the model learns


@dataclass(frozen=True, eq=False)
class Plan:
    """A model's layers, and what reads the stream after them: a norm, if it is one."""

    layers: tuple[LayerPlan, ...]
    layers_name: str
    decoder: str
    width: int
    final: NormPlan | None

    @property
    def fixed(self) -> bool:
        """Whether it holds for this model whatever it learns."""
        return all(layer.fixed for layer in self.layers)

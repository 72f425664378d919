"""The parts of a causal language model that attribution reads: types; `analysis.detection` finds.

What a node writes is what enters the residual stream:

    head   z_h r W_O[h] diag(gain)   z the input of the output projection; r = 1/rms and gain those
                                     of the norm after the branch, 1 where there is none
    node   an MLP, a mixture of experts, a mixer of tokens without heads: outputs of its modules

and what a destination reads is the stream at one point, or a norm of it:

    rows   of a linear module of the attention: those of one head's q, k or v, of its gate, or those
           that several heads share
    node   the input of a module

Where layers rescale the stream itself, its value at a point is `gauge` times the sum of what was
written up to there, and everything below is in the units of that sum.

A PEFT model is read through its base model, with its adapters in place: they are part of the
projections that the hooks sit on. Where an adapter has a whole copy of a module, such as a norm,
the copy is read. Adapters that work otherwise are refused (analysis/models/adapters.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from analysis.models.compat import unwrapped
from analysis.models.graph import Graph
from analysis.models.linear import linear_bias, linear_map, wide
from analysis.models.maps import Map
from analysis.models.onload import home, onloaded


class Unsupported(ValueError):
    """A model whose parts were not found, or not proved; one line says where and why."""


@dataclass(frozen=True)
class Norm:
    """An RMSNorm or LayerNorm: gain * centred(x) * r + bias, r = 1 / sqrt(mean(x^2) + eps).

    weight: the name of the gain among the module's parameters, None for a gain of 1. offset: what
    is added to it. frozen: gradients go back as if r were a constant.
    """

    module: Any
    eps: float
    offset: float = 0.0
    centred: bool = False
    weight: str | None = "weight"
    frozen: bool = False

    @property
    def gain(self) -> torch.Tensor:
        """[d], or [] for 1."""
        if self.weight is None:
            return torch.ones(())
        with onloaded(self.module):
            return wide(getattr(self.module, self.weight).detach()) + self.offset

    @property
    def bias(self) -> torch.Tensor | None:
        """[d], or None."""
        with onloaded(self.module):
            bias = getattr(self.module, "bias", None)
            return None if bias is None else wide(bias.detach())

    def centre(self, x: torch.Tensor) -> torch.Tensor:
        """x less its mean over the last axis, for a LayerNorm; else x."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def rstd(self, x: torch.Tensor) -> torch.Tensor:
        """r of the centred x: [..., d] -> [..., 1]."""
        x = self.centre(wide(x))
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
        return (square + self.eps).rsqrt()

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """What the module gives for x, in float32 or wider, without its bias: [..., d]."""
        return self.centre(wide(x)) * self.rstd(x) * self.gain.to(x.device)

    def pull_back(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient at x of what has `gradient` at the output: [..., d]."""
        r, centred = self.rstd(x), self.centre(wide(x))
        g = wide(gradient) * self.gain.to(x.device)
        if self.frozen:
            return self.centre(r * g)
        dot = (centred * g).sum(-1, keepdim=True)
        return self.centre(r * g - centred * (r.pow(3) / x.shape[-1] * dot))


@dataclass(frozen=True, eq=False)
class Projection:
    """Destinations that are rows of one linear module: n of them, w rows each.

    index: the rows, int64 [n, w]. column: the first destination, among the reading's. letter: `q`,
    `k`, `v`, `g` for a gate, or of several for rows that serve several. scale: what the module's
    input is multiplied with before. repeats: copies of each destination: query heads that share it,
    in the ungrouped graph; hooks then see so many copies of the module's whole output side by side
    (analysis/models/copies.py). Destination i of copy c is number i * repeats + c.
    """

    module: Any
    index: torch.Tensor
    column: int
    letter: str
    scale: float = 1.0
    repeats: int = 1

    @property
    def n_rows(self) -> int:
        """Rows of one destination: w."""
        return int(self.index.shape[1])

    @property
    def width(self) -> int:
        """Destinations of this side."""
        return int(self.index.shape[0]) * self.repeats

    @property
    def columns(self) -> slice:
        """This side's destinations among the reading's."""
        return slice(self.column, self.column + self.width)

    @cached_property
    def _regular(self) -> tuple[int, int] | None:
        """First row and step from destination to destination, where the rows are regular."""
        n, w = self.index.shape
        first = int(self.index[0, 0])
        step = int(self.index[1, 0]) - first if n > 1 else w
        steps = torch.arange(n)[:, None] * step + torch.arange(w) + first
        return (first, step) if step > 0 and torch.equal(steps, self.index) else None

    def rows(self, y: torch.Tensor) -> torch.Tensor:
        """These rows of a tensor that has all of the module's last: [..., out] -> [..., n, w].

        A view where the rows are regular.
        """
        n, w = self.index.shape
        if self._regular is None:
            return y[..., self.index.to(y.device)]
        first, step = self._regular
        if step == w:
            return y[..., first : first + n * w].unflatten(-1, (n, w))
        return y[..., first : first + (n - 1) * step + w].unfold(-1, w, step)

    def seen(self, y: torch.Tensor) -> torch.Tensor:
        """The destinations' part of the module's output as hooks see it: [..., width, w]."""
        if self.repeats == 1:
            return self.rows(y)
        copies = self.rows(y.unflatten(-1, (self.repeats, -1)))  # [..., repeats, n, w]
        return copies.transpose(-2, -3).flatten(-3, -2)

    def write(self, y: torch.Tensor, new: torch.Tensor) -> None:
        """Put the destinations' part [..., width, w] into the module's output as hooks see it."""
        rows = self.index.flatten().to(y.device)
        if self.repeats == 1:
            y[..., rows] = new.flatten(-2)
            return
        copies = new.unflatten(-2, (-1, self.repeats)).transpose(-2, -3)
        y.unflatten(-1, (self.repeats, -1))[..., rows] = copies.flatten(-2)

    @cached_property
    def _matrix(self) -> torch.Tensor:
        return linear_map(self.module)

    @property
    def weight(self) -> torch.Tensor:
        """What the norm's output is multiplied with: [width, w, d]."""
        W = wide(self.rows(self._matrix.T)).permute(1, 2, 0)
        W = W if self.scale == 1.0 else W * self.scale
        return W if self.repeats == 1 else W.repeat_interleave(self.repeats, 0)

    def offset(self, norm: Norm | Map | None) -> torch.Tensor | None:
        """Output where the normalised input is 0 (the biases of module and norm): [width, w]."""
        bias, beta = linear_bias(self.module), None if norm is None else norm.bias
        out = None if bias is None else wide(self.rows(bias)).repeat_interleave(self.repeats, 0)
        if beta is not None:
            shift = self.weight @ beta.to(self._matrix.device)
            out = shift if out is None else out + shift
        return out


@dataclass(frozen=True, eq=False)
class Reading:
    """The destinations of one attention that read the stream at one point, through one norm.

    place: the module whose input is the stream there (the norm, or what reads it without one).
    column: the first destination, among the layer's. point: of the layer.
    """

    norm: Norm | Map | None
    place: nn.Module
    sides: tuple[Projection, ...]
    column: int = 0
    point: int = 0
    gauge: torch.Tensor | None = None

    @property
    def width(self) -> int:
        return sum(side.width for side in self.sides)

    @property
    def modules(self) -> dict[nn.Module, list[int]]:
        """The linear modules, each with the places of its sides among `sides`."""
        found: dict[nn.Module, list[int]] = {}
        for index, side in enumerate(self.sides):
            found.setdefault(side.module, []).append(index)
        return found

    @cached_property
    def offsets(self) -> list[torch.Tensor | None]:
        """`Projection.offset` of each side."""
        return [side.offset(self.norm) for side in self.sides]


@dataclass(frozen=True, eq=False)
class Heads:
    """The heads of one output projection: head h, `first + h` in its layer, writes W_O[h] z_h.

    attention: the module that computes them. after: the norm between the projection and the stream.
    linear_after: a linear module in its place, which may mix tokens. scale: what the output is
    multiplied with, over the gauge: a number or [d]. point: of the layer, where it has arrived.
    kind: `softmax` or `linear`.

    The bias of a projection is nobody's, unless a norm comes after it: that scales it by the token,
    and each head has an equal share of it, as one more number of its z that is always 1.
    """

    attention: Any
    o_proj: Any
    n_heads: int
    first: int = 0
    after: Norm | None = None
    linear_after: Any = None
    scale: float | torch.Tensor = 1.0
    point: int = 1
    kind: str = "softmax"

    @property
    def branch(self) -> nn.Module:
        """The module whose output enters the residual stream, times the scale."""
        if self.after is not None:
            return self.after.module
        return self.o_proj if self.linear_after is None else self.linear_after

    @cached_property
    def _matrix(self) -> torch.Tensor:
        return linear_map(self.o_proj)

    @property
    def head_width(self) -> int:
        """Numbers of one head's z: e."""
        return int(self._matrix.shape[1]) // self.n_heads

    @cached_property
    def _scaled_bias(self) -> torch.Tensor | None:
        """The projection's bias where a norm comes after it, and it is not 0: [d]."""
        bias = None if self.after is None else linear_bias(self.o_proj)
        return None if bias is None or not bool(bias.any()) else bias

    def extended(self, z: torch.Tensor) -> torch.Tensor:
        """z with what stands for a bias that is scaled: [..., H * e] -> [..., H * (e + 1)]."""
        if self._scaled_bias is None:
            return z
        by_head = z.unflatten(-1, (self.n_heads, -1))
        return torch.nn.functional.pad(by_head, (0, 1), value=1.0).flatten(-2)

    @property
    def W_O(self) -> torch.Tensor:
        """What each head's z r is multiplied with: [H, e, d]; e + 1 where a bias is scaled."""
        W = wide(self._matrix)
        if self._scaled_bias is not None:
            share = wide(self._scaled_bias) / self.n_heads
            by_head = W.view(W.shape[0], self.n_heads, -1)
            shares = share[:, None, None].expand(-1, self.n_heads, 1)
            W = torch.cat([by_head, shares], -1).flatten(1)
        if self.after is not None:
            plain = W - W.mean(0) if self.after.centred else W  # the mean that the norm takes off
            W = plain * self.after.gain.to(W.device)[..., None]
        if not isinstance(self.scale, float) or self.scale != 1.0:
            scale = torch.as_tensor(self.scale, dtype=W.dtype, device=W.device)
            W = W * scale[..., None]
        return W.view(W.shape[0], self.n_heads, -1).permute(1, 2, 0)

    @torch.no_grad()
    def written(self, zr: torch.Tensor) -> torch.Tensor:
        """What every head writes, of its z r: [B, T, H * e] -> [H, B, T, d]."""
        z = zr.unflatten(-1, (self.n_heads, -1))
        if self.linear_after is None:
            return torch.einsum("bthe,hed->hbtd", z, self.W_O)
        plain = self._matrix.view(self._matrix.shape[0], self.n_heads, -1)
        heads = torch.einsum("bthe,dhe->hbtd", z, wide(plain))
        # forward, not __call__: the hooks of a running attribution must not see this
        after = self.linear_after.forward
        zero = after(torch.zeros_like(heads[0]).to(plain.dtype))
        scale = torch.as_tensor(self.scale, dtype=heads.dtype, device=heads.device)
        return torch.stack([wide(after(o.to(plain.dtype)) - zero) for o in heads]) * scale


@dataclass(frozen=True, eq=False)
class Tap:
    """An input of a node: the module's is scale * norm(stream at a point).

    norm: None where there is none, or where `module` is itself a norm that only this node reads.
    """

    module: Any
    point: int
    norm: Norm | Map | None = None
    scale: float = 1.0
    gauge: torch.Tensor | None = None

    @property
    def place(self) -> Any:
        """The module whose input is the stream (times the scale, without a norm)."""
        return self.module if self.norm is None else self.norm.module


@dataclass(frozen=True, eq=False)
class Node:
    """What a layer has beside heads: it reads through taps, and writes a sum of module outputs.

    writes: modules with what their outputs are multiplied with, over the gauge: a number or [d].
    """

    letter: str
    taps: tuple[Tap, ...]
    writes: tuple[tuple[Any, float | torch.Tensor], ...]
    point: int

    def output(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """What is written, of the modules' outputs: [B, T, d]."""
        only = self.writes[0][1] if len(outputs) == 1 else None
        if isinstance(only, float) and only == 1.0:
            return outputs[0]
        total: Any = 0
        for (_, scale), output in zip(self.writes, outputs, strict=True):
            factor = scale.to(output.device) if isinstance(scale, torch.Tensor) else scale
            total = total + wide(output) * factor
        return total


@dataclass(frozen=True, eq=False)
class Block:
    """The parts of one decoder layer. Its destinations stand as in `readings`, then `nodes`."""

    layer: int
    module: nn.Module
    readings: tuple[Reading, ...]
    heads: tuple[Heads, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The modules of a model that attribution reads, and its graph.

    decoder: ids -> hidden states, which the model makes into logits. width: of the stream, d.
    gauge: of what leaves the last layer. final_norm: what reads that, where it is a norm.
    max_tokens: where positions are learned. kept: it was found of a model like this one before.
    """

    causal_lm: Any
    decoder: Any
    embedding: Any
    layers: Any
    blocks: tuple[Block, ...]
    graph: Graph
    width: int
    gauge: torch.Tensor | None = None
    final_norm: Norm | None = None
    max_tokens: int | None = None
    kept: bool = False

    @property
    def vocabulary(self) -> int:
        """Tokens that the embedding has, those that an adapter has added included."""
        return int(self.embedding.weight.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """In which sums are made: float64 for a float64 model, else float32."""
        kind: torch.dtype = self.embedding.weight.dtype
        return torch.float64 if kind == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the ids go."""
        return home(self.embedding)

    @cached_property
    def heads(self) -> list[tuple[Block, Heads]]:
        """All output projections with heads, layer by layer."""
        return [(block, heads) for block in self.blocks for heads in block.heads]

    @cached_property
    def nodes(self) -> list[tuple[Block, int, Node]]:
        """All nodes with their index in the layer, layer by layer."""
        return [(b, index, node) for b in self.blocks for index, node in enumerate(b.nodes)]

    def heads_of(self, layer: int, heads: list[int]) -> Iterator[HeadsOf]:
        """The output projections of some heads of a layer."""
        for part in self.blocks[layer].heads:
            own = range(part.first, part.first + part.n_heads)
            places = [place for place, head in enumerate(heads) if head in own]
            if places:
                yield HeadsOf(part, [heads[place] - part.first for place in places], places)


def given(parts: Anatomy | None, kv: str) -> Anatomy | None:
    """An anatomy that was written by hand, if there is one.

    Raises:
        ValueError: its graph is not the kind that is asked for.
    """
    if parts is not None and parts.graph.kv != kv:
        raise ValueError(f"the anatomy that is given is {parts.graph.kv}, and kv is {kv}")
    return parts


@dataclass(frozen=True, eq=False)
class HeadsOf:
    """Heads of one output projection, by their own numbers; places: where they stood in a list."""

    part: Heads
    heads: list[int]
    places: list[int]


def base_model(model: nn.Module) -> Any:
    """The Hugging Face causal language model inside a PEFT model and wrappers around that."""
    model = unwrapped(model)
    inner = getattr(model, "get_base_model", None)
    return unwrapped(inner() if callable(inner) else model)


def in_force(module: Any) -> Any:
    """The module that computes: a PEFT adapter's whole copy of one, if there is one and it is used.

    Such copies are `modules_to_save` of any adapter and the norms of LN tuning.
    """
    copies = getattr(module, "modules_to_save", getattr(module, "ln_tuning_layers", None))
    if not isinstance(copies, nn.ModuleDict):
        return module
    used = (
        []
        if module.disable_adapters or getattr(module, "merged", False)
        else (module.active_adapters)
    )
    if not used:
        return getattr(module, "original_module", getattr(module, "base_layer", None))
    return copies[used[0]]

"""The attention patterns of a model: the share of a query's attention that each key gets.

They come from the `eager` attention of the architecture, which computes what the faster ones do and
is switched on for the run only. A pattern is what the attention interface gives beside the heads'
output; where a model does not go through that once, what its attention module returns or a softmax
inside it, if each head has queries of its own (those of DiffLlama are differences of two). Heads of
linear attention have none.

Shape legend: B prompts, T positions, H heads of one output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from analysis.models.anatomy import Anatomy, Block, Heads
from analysis.models.compat import attention_calls, attention_kind, set_attention_kind
from analysis.models.forward import run_decoder
from analysis.models.hooks import Hooks
from analysis.models.linear import wide

See = Callable[[int, Heads, torch.Tensor], None]


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Attention that computes its pattern, inside; the implementation of before, outside."""
    configs: dict[int, Any] = {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }
    before = {key: attention_kind(config) for key, config in configs.items()}
    try:
        for config in configs.values():
            set_attention_kind(config, "eager")
        yield
    finally:
        for key, config in configs.items():
            set_attention_kind(config, before[key])


@torch.no_grad()
def see_patterns(parts: Anatomy, ids: torch.Tensor, see: See) -> None:
    """Run the model on right-padded ids [B, T]; `see(layer, heads, pattern [B, H, T, T])`.

    In the order of the layers, and one layer's pattern is held at a time. What has no pattern, or
    none that is seen, is left out.
    """
    shape = len(ids), ids.shape[1]
    watches = {
        part.attention: _Watch(block.layer, part, shape, _has_own_queries(parts, block, part), see)
        for block, part in parts.heads
        if part.kind == "softmax"
    }
    softmaxes = _Softmaxes()

    def at_interface(module: Any, q: Any, k: Any, v: Any, call: Callable[..., Any]) -> Any:
        output = call(q, k, v)
        if module in watches:
            watches[module].at_interface.append(output[1])
        return output

    with eager(parts.causal_lm), attention_calls(at_interface), softmaxes, Hooks() as hooks:
        for attention, watch in watches.items():
            hooks.input(attention, partial(_start, watch, softmaxes))
            hooks.returned(attention, partial(_end, watch, softmaxes))
        run_decoder(parts, ids)


def _has_own_queries(parts: Anatomy, block: Block, heads: Heads) -> bool:
    """Whether no rows of queries serve several heads of an output projection."""
    own = range(heads.first, heads.first + heads.n_heads)
    return all(
        side.of == "h"
        for side in parts.graph.shapes[block.layer].sides
        if ("q" in side.letter or side.letter == "in")
        and any(head in own for feeds in side.feeds for head in feeds)
    )


def _start(watch: _Watch, softmaxes: _Softmaxes, _: torch.Tensor) -> None:
    watch.at_interface, softmaxes.seen = [], []


def _end(watch: _Watch, softmaxes: _Softmaxes, output: Any) -> None:
    watch.choose(output, softmaxes.seen)
    softmaxes.seen = None


class _Watch:
    """Finds the pattern of one attention among what is seen of it."""

    def __init__(
        self, layer: int, heads: Heads, shape: tuple[int, int], own_queries: bool, see: See
    ) -> None:
        self.layer, self.heads, self.see, self.own_queries = layer, heads, see, own_queries
        self.shape = shape[0], heads.n_heads, shape[1], shape[1]
        self.at_interface: list[Any] = []

    def choose(self, output: Any, softmaxes: list[torch.Tensor] | None) -> None:
        """Hand over the first that is a pattern."""
        once = len(self.at_interface) == 1
        candidates = [*self.at_interface] if once else []
        if self.own_queries:
            returned = output if isinstance(output, tuple | list) else ()
            candidates += [*returned, *reversed(softmaxes or ())]
        for candidate in candidates:
            if self._is_pattern(candidate):
                self.see(self.layer, self.heads, wide(candidate.reshape(self.shape)))
                break
        self.at_interface = []

    def _is_pattern(self, candidate: Any) -> bool:
        """Whether it has a share for each head, query and key, and none is of a later token."""
        if not isinstance(candidate, torch.Tensor) or candidate.numel() != self._size:
            return False
        if candidate.ndim < 3 or candidate.shape[-2:] != self.shape[-2:]:
            return False
        A = wide(candidate.detach()).reshape(self.shape)
        later = A.triu(1).abs().amax()
        return bool(A.amin() >= 0 and A.sum(-1).amax() <= 1.01 and later <= 1e-6)

    @property
    def _size(self) -> int:
        return torch.Size(self.shape).numel()


class _Softmaxes(TorchFunctionMode):
    """Keeps what softmaxes give, while `seen` is a list."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.seen is not None and func in (
            functional.softmax,
            torch.softmax,
            torch.Tensor.softmax,
        ):
            self.seen.append(output)
        return output

"""Which experts a mixture of experts chooses: found without names, recorded, and held.

A router turns scores into indices, and there the model jumps: along a path of inputs another expert
is suddenly taken. A jump has no gradient, so the integral of gradients along the path misses it.
`Routing` holds the choices of one run in others: the indices are those of that run, the values at
them those of the present one, so that gradients flow through the weights of the experts.

What counts as a choice is seen from what the code of a layer does, outside of its attention:

    topk, sort, argmax, max, ...   along a dimension of a tensor of numbers, if its indices are used
    a comparison                   of a tensor of a shape that was chosen over (the band of
                                   Phi-3.5-MoE's sparsemixer, in which experts share a token)

The largest values of something, whose indices nobody uses, are continuous, and are left as they
are. Which keys a sparse attention reads is chosen inside the attention: that is no routing.

Shape legend: N tokens (or B pairs, T positions), k experts of a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from analysis.models.anatomy import Anatomy
from analysis.models.hooks import not_compiled

ROUTINGS = ("free", "frozen")
# functions that find indices: the place and default of `dim` among their arguments
_DIM: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("topk", "kthvalue"), (2, -1)),
    **dict.fromkeys(("sort", "argsort"), (1, -1)),
    **dict.fromkeys(("max", "min", "argmax", "argmin"), (1, None)),
}
_COMPARE = {"gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"}


@dataclass
class _Choice:
    """Indices along `dim` of a tensor of `shape`, or the mask of a comparison (`dim` is None).

    form: the named tuple in which the function returns values and indices; None for indices only.
    """

    chosen: torch.Tensor
    shape: torch.Size
    dim: int | None = None
    form: Any = None
    used: bool = False

    def again(self, scores: torch.Tensor) -> Any:
        """What the function returns with this choice, for other scores or n copies of as many."""
        chosen = _copies(self.chosen, self.shape, scores.shape)
        if self.form is None or self.dim is None:
            return chosen
        if chosen.ndim == scores.ndim:
            return self.form((scores.gather(self.dim, chosen), chosen))
        values = scores.gather(self.dim, chosen.unsqueeze(self.dim))
        return self.form((values.squeeze(self.dim), chosen))


def _copies(chosen: torch.Tensor, recorded: torch.Size, present: torch.Size) -> torch.Tensor:
    """A choice over a tensor of one shape, for one that holds n copies of it side by side."""
    if recorded == present:
        return chosen
    grown = [i for i, (a, b) in enumerate(zip(recorded, present, strict=False)) if a != b]
    if len(recorded) != len(present) or len(grown) != 1 or present[grown[0]] % recorded[grown[0]]:
        raise ValueError(
            f"a router chose over scores {list(recorded)}, and is to choose as then over "
            f"{list(present)}: the two runs are not on the same tokens"
        )
    return torch.cat([chosen] * (present[grown[0]] // recorded[grown[0]]), grown[0])


class Routing(TorchFunctionMode):
    """The choices of one run of a model, to be held in others.

    Args:
        layers: each decoder layer, with the modules in it whose choices are no routing: attention.
    """

    def __init__(self, layers: Sequence[tuple[nn.Module, Sequence[nn.Module]]]) -> None:
        super().__init__()
        self._watched = layers
        self._calls: list[list[_Choice | None]] = [[] for _ in layers]  # None: nothing to hold
        self._handed: dict[int, torch.Tensor] = {}
        self._holding = False
        self._layer: int | None = None  # whose code runs, outside of its attention
        self._at = 0  # the next of its calls

    @property
    def layers(self) -> list[int]:
        """The layers that chose in the run that was recorded; none in a model without experts."""
        return [layer for layer in range(len(self._calls)) if self._choices(layer)]

    @classmethod
    def of(cls, parts: Anatomy) -> Routing:
        """That of a model, whose heads' attention is left out."""
        return cls([(b.module, [heads.attention for heads in b.heads]) for b in parts.blocks])

    def _choices(self, layer: int) -> list[_Choice]:
        """Those of indices."""
        return [c for c in self._calls[layer] if c is not None and c.dim is not None]

    def experts(self, layer: int) -> tuple[torch.Tensor, int]:
        """What each token was given to in the end: int64 [N, k]; and of how many experts.

        That is what the layer handed to a part of its own, the module of its experts; or, where
        they are in its own code, what it chose last.
        """
        last = self._choices(layer)[-1]
        chosen, dim = last.chosen, last.dim
        assert dim is not None
        if chosen.ndim < len(last.shape):
            chosen = chosen.unsqueeze(dim)
        chosen = self._handed.get(layer, chosen.movedim(dim, -1))
        return chosen.reshape(-1, chosen.shape[-1]).long(), last.shape[dim]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the choices of the one run inside, and forget those of any before."""
        if not self._watched:
            yield
            return
        self._calls, self._handed = [[] for _ in self._watched], {}
        with self._watching(holding=False):
            yield
        for layer, calls in enumerate(self._calls):
            over = {c.shape for c in calls if c is not None and c.used}
            self._calls[layer] = [c if c is not None and _holds(c, over) else None for c in calls]

    @contextmanager
    def held(self) -> Iterator[None]:
        """In the runs inside, layers choose as in the run that was recorded.

        They are on the same number of tokens, or on n copies of them, and may have gradients.
        In a model without experts nothing is changed.

        Raises:
            ValueError: a router is asked about other tokens, or in another order.
        """
        if not self.layers:
            yield
            return
        with self._watching(holding=True):
            yield

    @contextmanager
    def _watching(self, holding: bool) -> Iterator[None]:
        self._holding, self._layer, hooks = holding, None, []
        for index, (layer, attention) in enumerate(self._watched):
            enter, leave = partial(self._go, index), partial(self._go, None)
            hooks.append(layer.register_forward_pre_hook(partial(self._start, index)))
            hooks.append(layer.register_forward_hook(leave, always_call=True))
            for module in attention:
                hooks.append(module.register_forward_pre_hook(leave))
                hooks.append(module.register_forward_hook(enter, always_call=True))
            inside = {part for module in attention for part in module.modules()}
            for part in () if holding else {*layer.modules()} - inside - {layer}:
                see = partial(self._see_handed, index)
                hooks.append(part.register_forward_pre_hook(see, with_kwargs=True))
        try:
            with not_compiled(), self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _start(self, layer: int, *_: object) -> None:
        self._layer, self._at = layer, 0

    def _go(self, layer: int | None, *_: object) -> None:
        self._layer = layer

    def _see_handed(
        self, layer: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Before a part of a layer runs: keep the indices it is given once there is a choice."""
        if self._layer is None or layer in self._handed or not self._choices(layer):
            return
        self._mark_used((*args, *kwargs.values()))
        for given in (*args, *kwargs.values()):
            if isinstance(given, torch.Tensor) and given.dtype in (torch.int64, torch.int32):
                self._handed[layer] = given.detach()
                return

    def _mark_used(self, given: Iterable[Any]) -> None:
        ids = {id(c.chosen): c for c in self._choices(self._layer)}  # type: ignore[arg-type]
        for value in given:
            for part in value if isinstance(value, list | tuple) else (value,):
                if isinstance(part, torch.Tensor) and id(part) in ids:
                    ids[id(part)].used = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._layer is None:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        scores = args[0] if args else kwargs.get("input")
        numbers = isinstance(scores, torch.Tensor) and scores.is_floating_point()
        dim = _dim(name, args, kwargs) if numbers else None
        if self._holding:
            if dim is None and not (numbers and name in _COMPARE):
                return func(*args, **kwargs)
            choice = self._next(dim)
            return func(*args, **kwargs) if choice is None else choice.again(scores)
        result = func(*args, **kwargs)
        calls = self._calls[self._layer]
        if dim is not None:
            chosen = result[1] if isinstance(result, tuple) else result
            form = type(result) if isinstance(result, tuple) else None
            calls.append(_Choice(chosen, scores.shape, dim % scores.ndim, form))
        elif numbers and name in _COMPARE:
            over = any(c.shape == scores.shape for c in self._choices(self._layer))
            calls.append(_Choice(result, scores.shape) if over else None)
        elif calls:
            self._mark_used((*args, *kwargs.values()))
        return result

    def _next(self, dim: int | None) -> _Choice | None:
        """The choice of the recorded run at this call."""
        assert self._layer is not None
        calls, at = self._calls[self._layer], self._at
        self._at += 1
        if at >= len(calls):
            raise ValueError(
                f"layer {self._layer} chooses more often than in the run whose routing is held: "
                "its code depends on its inputs, and its routing can't be frozen; use routing=free"
            )
        return calls[at]


def _holds(choice: _Choice, over: set[torch.Size]) -> bool:
    """Whether a choice is held: its indices are used, or it compares what was chosen over."""
    return choice.used if choice.dim is not None else choice.shape in over


def _dim(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The dimension along which a function finds indices; None if it does not."""
    if name not in _DIM:
        return None
    place, default = _DIM[name]
    dim = kwargs.get("dim", args[place] if len(args) > place else default)
    return dim if isinstance(dim, int) else None

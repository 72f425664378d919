"""What a model does with a few tokens: every module's first tensor in and out, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from analysis.models.compat import Conv1D, attention_calls
from analysis.models.hooks import not_compiled

_QUIET = 0.1  # what is smaller than this share of the stream gets noise of that size


def first_floats(given: Any) -> torch.Tensor | None:
    """The first tensor of floats with more than one axis among arguments or outputs."""
    if isinstance(given, torch.Tensor):
        return given
    parts = given.values() if isinstance(given, dict) else given
    if not isinstance(given, dict | tuple | list):
        return None
    for part in parts:
        if isinstance(part, torch.Tensor) and part.is_floating_point() and part.ndim > 1:
            return part
    return None


def replace_floats(given: Any, new: torch.Tensor) -> Any:
    """What a module returned, with `new` in the place of `first_floats`."""
    if isinstance(given, torch.Tensor):
        return new
    old = first_floats(given)
    if isinstance(given, dict):
        given[next(key for key, part in given.items() if part is old)] = new
        return given
    changed = [new if part is old else part for part in given]
    return type(given)(changed) if isinstance(given, list) else tuple(changed)


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Whether two tensors hold the same tokens' vectors, in whatever shape and width of floats."""
    if a is None or b is None or a.numel() != b.numel() or a.shape[-1] != b.shape[-1]:
        return False
    a, b = a.reshape(-1), b.reshape(-1).to(a.device)
    if a.dtype != b.dtype:
        narrow = min(a.dtype, b.dtype, key=lambda kind: torch.finfo(kind).bits)
        a, b = a.to(narrow), b.to(narrow)
    return torch.equal(a, b) or torch.allclose(a, b, rtol=1e-6, atol=1e-9 * float(b.abs().max()))


def is_linear(module: Any) -> bool:
    """Whether a module is a linear map with a bias: a plain one, or one with adapters in it."""
    if isinstance(module, nn.Linear | Conv1D) or hasattr(module, "base_layer"):
        return not isinstance(getattr(module, "base_layer", module), nn.Embedding)
    return hasattr(module, "in_features") and hasattr(module, "out_features")


@dataclass(eq=False)
class Call:
    """One call of a module: what came in and went out, and the calls inside it."""

    module: Any
    name: str
    parent: Call | None
    order: int
    x: torch.Tensor | None
    others: list[torch.Tensor]
    y: torch.Tensor | None = None
    kids: list[Call] = field(default_factory=list)

    def inside(self) -> Iterator[Call]:
        """All calls inside this one, in their order."""
        for kid in self.kids:
            yield kid
            yield from kid.inside()

    def above(self) -> Iterator[Call]:
        """The calls that this one is in, the nearest first."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent


@dataclass(eq=False)
class Face:
    """One mixing of tokens by heads: a call of the attention interface, or a softmax seen instead.

    heads, kv_heads: how many (`kv_heads` None where it can't be seen); width: of what one gives.
    """

    call: Call
    order: int
    heads: int
    kv_heads: int | None = None
    width: int | None = None


class LayerTrace:
    """The calls inside one layer, and where heads mix tokens in it."""

    def __init__(self, call: Call, beside: list[str]) -> None:
        self.call = call
        self.beside = beside  # arguments that depend on the tokens, and are not the stream
        self.faces: list[Face] = []  # calls of the attention interface
        self.softmaxes: list[Face] = []  # where there was none


class Tracer:
    """Traces the layers of a model one after the other, and keeps none."""

    def __init__(self, layers: list[nn.Module], see: Callable[[int, LayerTrace], None]) -> None:
        self._see = see
        self._names: dict[nn.Module, str] = {}
        self._layers = {layer: index for index, layer in enumerate(layers)}
        self._stack: list[Call] = []
        self._trace: LayerTrace | None = None
        self._order = 0
        self._at_interface = False
        self._size = 0.0
        self._random = torch.Generator().manual_seed(0)
        for layer in layers:
            self._names |= {module: name for name, module in layer.named_modules()}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, runs of the model are traced."""
        with ExitStack() as stack:
            stack.enter_context(not_compiled())
            stack.enter_context(attention_calls(self._face))
            stack.enter_context(_Softmax(self._mixed))
            for module in self._names:
                for handle in (
                    module.register_forward_pre_hook(self._before, with_kwargs=True),
                    module.register_forward_hook(self._after),
                ):
                    stack.callback(handle.remove)
            yield

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._trace is None and module not in self._layers:
            return
        given = [part for part in (*args, *kwargs.values()) if isinstance(part, torch.Tensor)]
        floats = [part for part in given if part.is_floating_point() and part.ndim > 1]
        parent = self._stack[-1] if self._stack else None
        x = floats[0].detach().clone() if floats else None
        others = [part.detach().clone() for part in floats[1:] if _alike(part, x)]
        call = Call(module, self._names[module], parent, self._order, x, others)
        self._order += 1
        if parent is None:
            self._trace = LayerTrace(
                call, _of_tokens(call.x, self._layers[module] == 0, args, kwargs)
            )
            self._size = 0.0 if x is None else float(x.abs().float().median())
        else:
            parent.kids.append(call)
        self._stack.append(call)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._stack or self._stack[-1].module is not module:
            return None
        call = self._stack.pop()
        y = first_floats(output)
        self._order += 1
        if self._trace is not None and y is not None:
            new = self._noised(call, y)
            if new is not None:
                output, y = replace_floats(output, new), new
            call.y = y.detach().clone()
        if not self._stack and self._trace is not None:
            trace, self._trace = self._trace, None
            self._see(self._layers[module], trace)
        return output

    def _noised(self, call: Call, y: torch.Tensor) -> torch.Tensor | None:
        """An output that is too small to be found in the stream, with noise on it; else None.

        It is put on modules with matrices of their own; on any other if its output is 0.
        """
        assert self._trace is not None
        stream = self._trace.call.x
        if stream is None or call.parent is None or not _alike(y, stream):
            return None
        if any(is_linear(above.module) for above in call.above()):
            return None
        own = any(part.ndim > 1 for part in call.module.parameters(recurse=False))
        limit = _QUIET * self._size if own or is_linear(call.module) else 0.0
        if float(y.abs().float().median()) > limit or (limit == 0.0 and bool(y.any())):
            return None
        noise = torch.randn(y.shape, generator=self._random, dtype=torch.float32)
        return y + (noise * _QUIET * self._size).to(y)

    def _face(self, module: nn.Module, q: Any, k: Any, v: Any, call: Callable[..., Any]) -> Any:
        self._at_interface = True
        output = call(q, k, v)
        self._at_interface = False
        inside = next((c for c in reversed(self._stack) if c.module is module), None)
        if self._trace is not None and inside is not None:
            shape = q.shape[1], k.shape[1], output[0].shape[-1]
            self._trace.faces.append(Face(inside, self._order, *shape))
            self._order += 1
        return output

    def _mixed(self, weights: torch.Size) -> None:
        """A softmax over tokens of the shape [..., T, T] that no attention interface computes."""
        if self._trace is None or self._at_interface or self._trace.call.x is None:
            return
        batch, tokens = self._trace.call.x.shape[:2]
        if len(weights) < 3 or weights[-2:] != (tokens, tokens) or weights.numel() < batch:
            return
        inside = self._stack[-1]
        while sum(map(is_linear, inside.module.modules())) < 2 and inside.parent is not None:
            inside = inside.parent
        heads = weights.numel() // (batch * tokens * tokens)
        self._trace.softmaxes.append(Face(inside, self._order, heads))
        self._order += 1


class _Softmax(TorchFunctionMode):
    """Tells the shape of the weights of every softmax, or of a kernel that has one in it."""

    def __init__(self, see: Callable[[torch.Size], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (functional.softmax, torch.softmax, torch.Tensor.softmax):
            self._see(output.shape)
        elif func is functional.scaled_dot_product_attention:
            given = dict(enumerate(args)) | (kwargs or {})
            q: Any = given.get(0, given.get("query"))
            k: Any = given.get(1, given.get("key"))
            self._see(torch.Size([*q.shape[:-1], k.shape[-2]]))
        return output


def _alike(part: torch.Tensor, x: torch.Tensor | None) -> bool:
    return x is not None and part.numel() == x.numel() and part.shape[-1] == x.shape[-1]


def _of_tokens(
    x: torch.Tensor | None, first: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[str]:
    """Arguments that differ between the prompts of a batch, and are not x: what they are called.

    Whole numbers only in the first layer: later ones may be chosen by the stream itself.
    """
    if x is None:
        return []
    given = [(f"argument {index}", part) for index, part in enumerate(args)]
    return [
        name
        for name, part in (*given, *kwargs.items())
        if isinstance(part, torch.Tensor)
        and part.shape[:2] == x.shape[:2]
        and not torch.equal(part[0], part[1])
        and (first or part.is_floating_point())
        and not (part.is_floating_point() and same(part, x))
    ]

"""The ungrouped graph: for the time of a run every query head has keys and values of its own.

Query heads that share a key/value head read copies of it. The copies are made of the rows of the
projection, before any norm, rotation or fused row of other heads' is between them and the attention
interface: hooks see n copies of the projection's output side by side, for n query heads a group.
Copy 0 goes on as the output. From each other one the attention is run once more, up to the
interface, where its keys and values are taken; there query head i of a group gets those of copy i.

So the gradient of a copy is that of one query head's keys or values, and the copies' gradients add
up to that of the shared head. Where a norm spans all key heads (OLMoE, MiniMax-M2), the copies i of
all of them are normalised together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from analysis.models.anatomy import Anatomy, Block, Heads, Unsupported
from analysis.models.compat import attention_calls, groups_of_one
from analysis.models.hooks import Hooks

_MEND = "the ungrouped graph is not defined there; use kv=grouped"


@contextmanager
def ungrouped(parts: Anatomy) -> Iterator[None]:
    """In the ungrouped graph, give each query head copies of its keys and values; else nothing.

    Raises:
        Unsupported: heads share keys and values in a way of which there are no copies.
    """
    attentions = {
        part.attention: _Copies.of(block, part)
        for block, part in parts.heads
        if parts.graph.kv == "ungrouped"
    }
    if not any(attentions.values()):
        yield
        return

    def see(module: nn.Module, q: Any, k: Any, v: Any, call: Callable[..., Any]) -> Any:
        copies = attentions.get(module)
        if copies is not None:
            return copies.attend(q, k, v, call)
        if module in attentions and k.shape[1] != q.shape[1]:
            raise Unsupported(f"an attention has no rows for the keys that it shares; {_MEND}")
        return call(q, k, v)

    with ExitStack() as stack:
        stack.enter_context(attention_calls(see))
        for copies in attentions.values():
            if copies is not None:
                stack.enter_context(copies.in_place())
        yield


class _Taken(Exception):
    """Ends a further run of an attention, with its keys and values."""

    def __init__(self, k: torch.Tensor, v: torch.Tensor) -> None:
        super().__init__()
        self.k, self.v = k, v


class _Copies:
    """The copies of one attention's keys and values."""

    def __init__(self, where: str, attention: Any, linears: dict[nn.Module, int]) -> None:
        self.where, self.attention = where, attention
        self.n = max(linears.values())
        self.linears = [_Linear(module, n) for module, n in linears.items()]
        self._given: tuple[Any, Any] = (), {}
        self._attended = self._further = False

    @classmethod
    def of(cls, block: Block, part: Heads) -> _Copies | None:
        """Those of an attention; None where it shares nothing."""
        inside = set(part.attention.modules())
        own = [
            (reading, side)
            for reading in block.readings
            for side in reading.sides
            if side.module in inside
        ]
        repeats = {side.repeats for _, side in own} - {1}
        if not repeats:
            return None
        where = f"layer {block.layer}"
        if len(repeats) > 1:
            raise Unsupported(f"{where}: keys and values are shared by other numbers; {_MEND}")
        linears: dict[nn.Module, int] = {}
        for reading, side in own:
            if reading.norm is not None and reading.norm.module in inside:
                raise Unsupported(f"{where}: the norm is a part of the attention; {_MEND}")
            linears[side.module] = max(side.repeats, linears.get(side.module, 1))
        return cls(where, part.attention, linears)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the attention's projections give copies."""
        with Hooks() as hooks, ExitStack() as stack:
            for linear in self.linears:
                if linear.n > 1:
                    hooks.output(linear.inner, linear.repeat)
                stack.enter_context(_instead(self.attention, linear.inner, linear))
            handle = self.attention.register_forward_pre_hook(self._start, with_kwargs=True)
            stack.callback(handle.remove)
            hooks.returned(self.attention, self._end)
            yield

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._given, self._attended = (args, kwargs), False

    def _end(self, output: Any) -> None:
        self._given = (), {}
        for linear in self.linears:
            linear.copies = ()
        if not self._attended:
            raise Unsupported(
                f"{self.where}: {type(self.attention).__name__} shares keys and values and does "
                f"not use transformers' attention interface, so {_MEND}"
            )

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: Callable[..., Any]
    ) -> Any:
        """The attention in which query head i of a group has the keys and values of copy i."""
        if self._further:
            raise _Taken(k, v)
        keys, values = [k], [v]
        for copy in range(1, self.n):
            taken = self._of_copy(copy)
            keys.append(taken.k)
            values.append(taken.v)
        self._attended = True
        with groups_of_one(self.attention):
            return call(q, self._each_its_own(keys, q), self._each_its_own(values, q))

    def _of_copy(self, copy: int) -> _Taken:
        """Run the attention once more, up to the interface, from a copy of its projections."""
        args, kwargs = self._given
        for linear in self.linears:
            if linear.copies:  # else it runs after the attention itself, as some gates do
                linear.instead = linear.copies[copy if linear.n > 1 else 0]
        self._further = True
        try:
            # forward, not __call__: hooks on the attention itself must not see this
            self.attention.forward(*args, **kwargs)
        except _Taken as taken:
            return taken
        finally:
            self._further = False
            for linear in self.linears:
                linear.instead = None
        raise Unsupported(f"{self.where}: the attention did not run a second time; {_MEND}")

    def _each_its_own(self, copies: list[torch.Tensor], q: torch.Tensor) -> torch.Tensor:
        """[B, K, T, e] of each copy, or [B, H, T, e] if repeated already -> [B, H, T, e]."""
        heads = q.shape[1]
        if copies[0].shape[1] * self.n == heads:
            return torch.stack(copies, 2).flatten(1, 2)
        if copies[0].shape[1] == heads:
            return torch.stack([copies[head % self.n][:, head] for head in range(heads)], 1)
        raise Unsupported(
            f"{self.where}: {heads} query heads share {copies[0].shape[1]} keys, and not "
            f"{self.n} each; {_MEND}"
        )


class _Linear(nn.Module):
    """Stands for a projection of an attention: runs it, keeps its copies and gives one of them."""

    def __init__(self, inner: nn.Module, n: int) -> None:
        super().__init__()
        self.inner, self.n = inner, n
        self.copies: tuple[torch.Tensor, ...] = ()
        self.instead: torch.Tensor | None = None

    def repeat(self, y: torch.Tensor) -> torch.Tensor:
        """n copies side by side: [..., out] -> [..., n * out]."""
        return y.repeat(*(1,) * (y.ndim - 1), self.n)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The output that an attention goes on with."""
        if self.instead is None:
            y: torch.Tensor = self.inner(*args, **kwargs)
            self.copies = y.unflatten(-1, (self.n, -1)).unbind(-2) if self.n > 1 else (y,)
            return self.copies[0]
        return self.instead

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)


@contextmanager
def _instead(root: nn.Module, module: nn.Module, other: nn.Module) -> Iterator[None]:
    """Inside, another module stands wherever one does in `root`."""
    places = [
        (parent, name)
        for parent in root.modules()
        for name, child in parent.named_children()
        if child is module
    ]
    for parent, name in places:
        setattr(parent, name, other)
    try:
        yield
    finally:
        for parent, name in places:
            setattr(parent, name, module)

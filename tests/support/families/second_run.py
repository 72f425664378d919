"""Destinations of an attention, and its second run on a changed input, of which one is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from analysis.models.anatomy import Heads, Norm, Projection, Reading
from analysis.models.hooks import Hooks
from analysis.models.maps import Map
from tests.support.families.interface import Face, at_interface


@dataclass(frozen=True, eq=False)
class Rows:
    """An attention destination: rows of a linear, and the heads (of its projection) they feed."""

    reading: Reading
    side: Projection
    number: int
    heads: Heads | None
    feeds: tuple[int, ...]
    whole: bool  # nothing else of the attention makes these heads' q, k or v


def gauged(changes: torch.Tensor, gauge: torch.Tensor | None) -> torch.Tensor:
    """Changes [n, B, T, d] in the units of the stream, as one batch: [n B, T, d]."""
    return (changes if gauge is None else changes * gauge).flatten(0, 1)


def changed(x: torch.Tensor, norm: Norm | Map | None, added: torch.Tensor) -> torch.Tensor:
    """What reads the stream x, or its norm, with something added to x."""
    x = x + added.reshape(x.shape)
    return x if norm is None else norm.module.forward(x)


class Stream:
    """What enters a module in a run."""

    def __init__(self, hooks: Hooks, place: Any) -> None:
        self.x = torch.empty(0)
        self.held = False
        hooks.input(place, self._keep)

    def _keep(self, x: torch.Tensor) -> None:
        if not self.held:
            self.x = x


class SecondRun:
    """A second run of an attention on a changed input, of which single heads are taken."""

    def __init__(self, hooks: Hooks, rows: Rows, changes: torch.Tensor) -> None:
        assert rows.heads is not None
        self.rows, self.attention = rows, rows.heads.attention
        self.added = gauged(changes, rows.reading.gauge)
        self.stream = Stream(hooks, rows.reading.place)
        self.own: Face | None = None  # of the run itself
        self.other: Face | None = None  # of the second one
        self.z = torch.empty(0)
        self.second = False
        self.call: Callable[[], Any] = lambda: None
        hooks.input(rows.heads.o_proj, self._leave)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The run has to happen in this context."""
        handle = self.attention.register_forward_pre_hook(self._enter, with_kwargs=True)
        try:
            with at_interface(self._meet):
                yield
        finally:
            handle.remove()

    def _enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.second:
            return
        given = args[0] if args else kwargs["hidden_states"]
        x = self._changed(given)
        if args:
            args = (x, *args[1:])
        else:
            kwargs = {**kwargs, "hidden_states": x}
        self.call = lambda: module.forward(*args, **kwargs)
        if self.rows.side.letter != "g":
            self._run_again()

    def _changed(self, given: torch.Tensor) -> torch.Tensor:
        """What the attention takes on the changed stream: a multiple of the norm, or of that."""
        norm = self.rows.reading.norm
        if norm is None:
            return given + self.added * self.rows.side.scale
        plain = changed(self.stream.x, norm, torch.zeros_like(self.added))
        scale = float((plain * given).sum() / plain.square().sum())
        assert torch.allclose(plain * scale, given), "the attention takes no multiple of the norm"
        return changed(self.stream.x, norm, self.added) * scale

    def _run_again(self) -> None:
        self.second = self.stream.held = True
        self.call()
        self.second = self.stream.held = False

    def _meet(self, module: Any, face: Face) -> Face:
        if module is not self.attention:
            return face
        gate = self.rows.side.letter == "g"
        if self.second:
            self.other = face
            return face if self.own is None or not gate else self.own
        self.own = face
        if gate:
            return face
        assert self.other is not None
        return self._mixed(face, self.other)

    def _mixed(self, face: Face, other: Face) -> Face:
        """q, k and v, of which those that the destination makes are of the second run."""
        heads, letter = self.rows.heads, self.rows.side.letter
        assert heads is not None
        mixed = []
        for name, own, new in zip("qkv", face, other, strict=True):
            if name in letter:
                group = heads.n_heads // own.shape[1]
                index = sorted({head // group for head in self.rows.feeds})
                own = own.clone()
                own[:, index] = new[:, index]
            mixed.append(own)
        return mixed[0], mixed[1], mixed[2]

    def _leave(self, z: torch.Tensor) -> torch.Tensor | None:
        if self.rows.side.letter != "g":
            return None
        if self.second:
            self.z = z
            return None
        self._run_again()
        heads = self.rows.heads
        assert heads is not None
        new = z.clone().unflatten(-1, (heads.n_heads, -1))
        index = list(self.rows.feeds)
        new[..., index, :] = self.z.reshape(z.shape).unflatten(-1, (heads.n_heads, -1))[
            ..., index, :
        ]
        return new.flatten(-2)

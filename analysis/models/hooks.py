"""Hooks on the modules of a model, for the time of a `with` block."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def not_compiled() -> Iterator[None]:
    """Inside, Python runs what torch.compile has compiled.

    Code that was compiled before a hook was there passes it over without a word.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; to ask torch would import it
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class Hooks:
    """Hooks on modules for the time of a `with` block, in which no compiled code is run."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._inside = ExitStack()

    def __enter__(self) -> Hooks:
        self._inside.enter_context(not_compiled())
        return self

    def __exit__(self, *_: object) -> None:
        self._inside.close()
        for handle in self._handles:
            handle.remove()

    def output(self, module: nn.Module, see: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Call `see` with a module's output; what it returns, if anything, replaces it."""
        self._handles.append(module.register_forward_hook(lambda m, i, o: see(o)))

    def input(self, module: nn.Module, see: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Call `see` with a module's hidden states; what it returns, if anything, replaces them."""

        def hook(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            new = see(args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            if args:
                return (new, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": new}

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

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
        """Call `see` with a module's output; what it returns, if anything, replaces it.

        Of a tuple or a ModelOutput that is the first tensor of floats.
        """

        def hook(m: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, torch.Tensor):
                return see(output)
            key, found = next(
                (key, part)
                for key, part in (output.items() if isinstance(output, dict) else enumerate(output))
                if _is_floats(part)
            )
            new = see(found)
            if new is None:
                return None
            if isinstance(output, dict):
                output[key] = new
                return output
            return type(output)([*output[:key], new, *output[key + 1 :]])

        self._handles.append(module.register_forward_hook(hook))

    def returned(self, module: nn.Module, see: Callable[[Any], None]) -> None:
        """Call `see` with all that a module returns."""
        self._handles.append(module.register_forward_hook(lambda m, args, output: see(output)))

    def passed(self, module: nn.Module, see: Callable[[nn.Module, Any, Any], Any]) -> None:
        """Call `see` with a module, what it was given and what it returns, as torch's own hooks."""
        self._handles.append(module.register_forward_hook(see))

    def input(self, module: nn.Module, see: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Call `see` with a module's hidden states; what it returns, if anything, replaces them.

        They are its first argument that is a tensor of floats of more than one axis.
        """

        def hook(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = dict(enumerate(args)) | kwargs
            key = next(key for key, part in given.items() if _is_floats(part))
            new = see(given[key])
            if new is None:
                return None
            given[key] = new
            return tuple(given[i] for i in range(len(args))), {name: given[name] for name in kwargs}

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))


def _is_floats(part: object) -> bool:
    return isinstance(part, torch.Tensor) and part.is_floating_point() and part.ndim > 1

"""The pass of `gradient_run` with the decoder's layers computed twice, to keep one at a time.

Forward no layer leaves anything but what it was given. Backward, from the last layer to the first,
each is run again on that, this time with what its gradient needs, and dropped after its gradient:
the memory of all layers becomes that of one and of the layers' inputs, for one forward pass more.
The products are the same ones, so the scores are equal to the last bit, or nearly so where what is
given has many readers, whose gradients are added up in another order (two families of 139).

torch.utils.checkpoint does the same from inside of autograd, whose threads know nothing of the
function modes that hold a routing (analysis/models/routing.py) or change gradients (gim_rules.py),
and runs hooks twice without telling them. Here all is in the thread that asks, and a layer is run
with gradients once: hooks that look at gradients need only ask whether these are on.

Two things are checked, as nothing else would tell that they fail. A layer must give the second time
what it gave the first (`_Layers.back`, in every pass). And gradients must come through the layers'
arguments: a layer that takes from another what was put aside would lose some (`check_layers`, on a
few tokens).

Shape legend: B pairs, T positions, d residual width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from analysis.models.anatomy import Anatomy, Unsupported
from analysis.models.compat import changes_in_place

_MEND = "use recompute=false"
CLOSE = {torch.bfloat16: 0.05, torch.float16: 0.01}  # of the largest number; else 1e-4


@dataclass
class _Call:
    """A layer that was run: what it was given and gave; `versions` tell whether it was changed."""

    layer: nn.Module
    given: list[Any]
    form: TreeSpec
    versions: list[int]
    gave: list[Any] = field(default_factory=list)


class Layers:
    """The layers of one pass. Inside `watched` they are run without gradients; then `back`."""

    def __init__(self, parts: Anatomy) -> None:
        self._layers = {layer: index for index, layer in enumerate(parts.layers)}
        self._calls: list[_Call] = []
        self._forward = True

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, the model is run once. Hooks that were there before come before these."""
        handles, on = [], torch.is_grad_enabled()
        for layer in self._layers:
            handles.append(layer.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(layer.register_forward_hook(self._leave))
        try:
            yield
        finally:
            torch.set_grad_enabled(on)
            for handle in handles:
                handle.remove()

    def _enter(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        given, form = tree_flatten((args, kwargs))
        versions = [changes_in_place(part) for part in given if isinstance(part, torch.Tensor)]
        self._calls.append(_Call(layer, given, form, versions))
        torch.set_grad_enabled(False)

    def _leave(self, layer: nn.Module, args: Any, output: Any) -> Any:
        torch.set_grad_enabled(True)
        gave, form = tree_flatten(output)
        gave = [part.detach().requires_grad_() if _is_floats(part) else part for part in gave]
        self._calls[-1].gave = gave
        return tree_unflatten(gave, form)

    def back(self, loss: torch.Tensor) -> None:
        """Bring the gradients of a loss to what the first layer was given: to its `grad`.

        On the way they are in `grad` of what the layers gave; nothing else gets any.

        Raises:
            Unsupported: a layer can't be run again.
        """
        loss.backward(inputs=self._leaves())
        while self._calls:
            self._back(self._calls.pop())

    def _leaves(self) -> list[torch.Tensor]:
        """What the layers that are left gave, and what the first was given."""
        tensors = (part for call in self._calls for part in (*call.given, *call.gave))
        leaves = (x for x in tensors if _is_floats(x) and x.requires_grad and x.is_leaf)
        return list({id(leaf): leaf for leaf in leaves}.values())

    def _back(self, call: _Call) -> None:
        where = f"recompute: layer {self._layers[call.layer]}"
        tensors = [part for part in call.given if isinstance(part, torch.Tensor)]
        if [changes_in_place(part) for part in tensors] != call.versions:
            raise Unsupported(f"{where} changes what it is given in place; {_MEND}")
        wanted = [part for part in tensors if part.requires_grad]
        leaves = {id(part): part.detach().requires_grad_() for part in wanted}
        given = [leaves.get(id(part), part) for part in call.given]
        args, kwargs = tree_unflatten(given, call.form)
        with torch.enable_grad():
            again = tree_flatten(call.layer(*args, **kwargs))[0]
        outputs, gradients = [], []
        for first, second in zip(call.gave, again, strict=True):
            if not _is_floats(first):
                continue
            if not _same(first, second):
                raise Unsupported(f"{where} does not give the same when it is run again; {_MEND}")
            if first.grad is not None and second.requires_grad:
                outputs.append(second)
                gradients.append(first.grad)
        if not outputs:
            return
        found = torch.autograd.grad(outputs, [*leaves.values()], gradients, allow_unused=True)
        for part, gradient in zip({id(part): part for part in wanted}.values(), found, strict=True):
            if gradient is not None:
                # with the calls before this one; the first layer's own is a leaf already
                inputs = [part] if part.is_leaf else self._leaves()
                part.backward(gradient, retain_graph=True, inputs=inputs)


def _is_floats(part: object) -> bool:
    return isinstance(part, torch.Tensor) and part.is_floating_point()


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors are equal, or differ as the kernels of one function may."""
    if first.shape != second.shape:
        return False
    a, b = first.detach(), second.detach()
    if torch.equal(a, b):
        return True
    scale = float(a.nan_to_num(0, 0, 0).abs().max()) if a.numel() else 0.0
    atol = CLOSE.get(a.dtype, 1e-4) * scale
    return torch.allclose(a, b, rtol=0, atol=atol, equal_nan=True)


def same_gradient(plain: torch.Tensor, recomputed: torch.Tensor) -> None:
    """That the gradients at the embeddings are the same, [B, T, d] each.

    Raises:
        Unsupported: they are not.
    """
    if not _same(plain, recomputed):
        raise Unsupported(
            "recompute: a gradient of this model does not come through what its layers are given, "
            f"so that a layer can't be run again by itself; {_MEND}"
        )

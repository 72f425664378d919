"""What a model's layers keep for their gradient, of a token: counted, not guessed.

A few short prompts go forward with gradients, and every storage that autograd keeps, and that is no
weight, is counted once. Their bytes are a polynomial of the prompt's length: constant, linear, and
a square where an attention keeps its pattern.

It works on a model without values too (on the meta device), where it takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from analysis.models.anatomy import Anatomy
from analysis.models.compat import storage_id
from analysis.models.forward import logits_of
from analysis.models.hooks import Hooks

LENGTHS = (8, 16, 32)


@dataclass(frozen=True)
class GraphBytes:
    """Bytes of a prompt of n tokens: a + b n + c n^2. all: of all layers; one: of the largest."""

    all: tuple[float, float, float]
    one: tuple[float, float, float]

    def of(self, length: int, layers: str = "all") -> int:
        """Of a prompt of so many tokens, for `all` layers or `one`."""
        a, b, c = getattr(self, layers)
        return int(max(0.0, a + b * length + c * length**2))


class _Count:
    """The storages that autograd keeps in one run, and in which layer they came."""

    def __init__(self, weights: set[int]) -> None:
        self._weights, self._layer = weights, -1
        self._kept: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def enter(self, layer: int, x: torch.Tensor) -> torch.Tensor | None:
        self._layer = layer
        return x.detach().requires_grad_() if layer == 0 else None

    def leave(self, x: torch.Tensor) -> None:
        self._layer = -1

    def see(self, x: torch.Tensor) -> torch.Tensor:
        try:
            storage = x.untyped_storage()
        except NotImplementedError:  # of a class of its own, such as packed weights
            return x
        if (its := storage_id(storage)) not in self._weights:
            self._kept.setdefault(its, (storage, self._layer))
        return x

    def bytes(self) -> tuple[int, int]:
        """Of all layers, and of the one that keeps most; the rest of the model is not counted."""
        layers: dict[int, int] = {}
        for storage, layer in self._kept.values():
            layers[layer] = layers.get(layer, 0) + storage.nbytes()
        layers.pop(-1, None)
        return sum(layers.values()), max(layers.values(), default=0)


def graph_bytes(parts: Anatomy) -> GraphBytes:
    """Those of a model whose parts are known, with what the sums look at (GradientSums)."""
    seen = [
        module for block in parts.blocks for reading in block.readings for module in reading.modules
    ]
    lengths = [min(length, parts.max_tokens or length) for length in LENGTHS]
    return _fit(parts.causal_lm, parts.layers, seen, lengths, parts.vocabulary, parts.device)


def graph_bytes_of_shape(model: Any, layers: Any) -> GraphBytes:
    """Those of a model on the meta device: of its configuration only."""
    return _fit(model, layers, [], list(LENGTHS), LENGTHS[-1], torch.device("meta"))


def _fit(
    model: Any,
    layers: Any,
    seen: list[Any],
    lengths: list[int],
    vocabulary: int,
    device: torch.device,
) -> GraphBytes:
    counted = [_count(model, layers, seen, n, vocabulary, device) for n in lengths]
    if len(set(lengths)) < len(lengths):  # few positions: no more than what was counted
        return GraphBytes((float(counted[-1][0]), 0.0, 0.0), (float(counted[-1][1]), 0.0, 0.0))
    vandermonde = torch.tensor([[1.0, n, n * n] for n in lengths], dtype=torch.float64)
    values = torch.tensor(counted, dtype=torch.float64)
    found = torch.linalg.solve(vandermonde, values).T.tolist()
    return GraphBytes(tuple(found[0]), tuple(found[1]))


def _count(
    model: Any, layers: Any, seen: list[Any], n: int, vocabulary: int, device: torch.device
) -> tuple[int, int]:
    held: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    plain = (tensor for tensor in held if type(tensor) in (torch.Tensor, nn.Parameter))
    count = _Count({storage_id(tensor.untyped_storage()) for tensor in plain})
    ids = torch.arange(n, device=device)[None] % vocabulary
    mask = None
    if device.type == "meta":  # what a mask of two axes holds would be looked at
        mask = torch.ones(1, 1, n, n, dtype=torch.bool, device=device).tril()
    with Hooks() as hooks, torch.enable_grad():
        for index, layer in enumerate(layers):
            hooks.input(layer, partial(count.enter, index))
            hooks.output(layer, count.leave)
        for module in seen:
            hooks.output(module, lambda y: (count.see(y), None)[1])
        with torch.autograd.graph.saved_tensors_hooks(count.see, lambda x: x):
            logits_of(model(input_ids=ids, attention_mask=mask, use_cache=False))
        return count.bytes()

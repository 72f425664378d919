"""The decoder of a causal language model and its layers: the list that hands one tensor on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from analysis.detection.trace import first_floats, same
from analysis.models.anatomy import Unsupported
from analysis.models.hooks import not_compiled
from analysis.models.onload import home

ROWS, TOKENS = 2, 8  # of the runs that detection looks at


@dataclass(frozen=True)
class Stack:
    """The module that makes ids into hidden states, and its layers; with their names."""

    decoder: Any
    layers: list[nn.Module]
    decoder_name: str
    layers_name: str
    final: str | None  # the first module that reads what leaves the last layer
    last: torch.Tensor  # what left it


def text_config(causal_lm: Any) -> Any:
    """The configuration of the text part, which is the model's own where it has no other."""
    get = getattr(causal_lm.config, "get_text_config", None)
    return get() if callable(get) else causal_lm.config


def text_decoder(causal_lm: Any) -> Any:
    """The module that holds the layers, as far as the model says so."""
    get = getattr(causal_lm, "get_decoder", None)
    decoder = get() if callable(get) else causal_lm
    if not any(isinstance(module, nn.ModuleList) for module in decoder.modules()):
        return causal_lm.base_model  # ModernBERT calls its head `decoder`
    return decoder


def tokens_for(causal_lm: Any) -> torch.Tensor:
    """Ids to look at the model with, none of them special: [ROWS, TOKENS]."""
    embedding = causal_lm.get_input_embeddings()
    special = set(_special(causal_lm.config.to_dict()))
    usable = [i for i in range(3, min(embedding.weight.shape[0], 1000) - 1) if i not in special]
    chosen = torch.randperm(len(usable), generator=torch.Generator().manual_seed(0))
    ids = torch.tensor(usable)[chosen[torch.arange(ROWS * TOKENS) % len(usable)]]
    return ids.view(ROWS, TOKENS).to(home(embedding))


def _special(config: dict[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _special(value)
        elif str(key).endswith(("token_id", "token_index")):
            yield from value if isinstance(value, list) else [value]


def run(causal_lm: Any, ids: torch.Tensor) -> None:
    """One forward pass."""
    causal_lm(input_ids=ids, use_cache=False)


def _first_run(causal_lm: Any, ids: torch.Tensor) -> None:
    try:
        run(causal_lm, ids)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unsupported(
            f"{type(causal_lm).__name__} does not run on token ids as a causal language model "
            f"does: {reason}"
        ) from error


@torch.no_grad()
def find_layers(causal_lm: Any, ids: torch.Tensor) -> Stack:
    """Run the model once and find its layers.

    Raises:
        Unsupported: no list of modules hands one tensor on, or one does it more than once.
        ValueError: what a layer gives is not finite.
    """
    decoder = text_decoder(causal_lm)
    names = {module: name for name, module in causal_lm.named_modules()}
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m)]
    members_of_all = [layer for members in lists for layer in members]
    inside = {module for layer in members_of_all for module in layer.modules()}
    outside = [m for m in decoder.modules() if m not in inside and m is not decoder]
    seen = _Seen()
    with seen.hooks([*members_of_all, *outside]):
        _first_run(causal_lm, ids)
    seen.check_finite(members_of_all, names)
    found = [members for members in lists if seen.handed_on(members)]
    if not found:
        raise Unsupported(
            f"{type(causal_lm).__name__} has no list of layers that hand one residual stream on: "
            "several streams, or layers that take turns, are not supported"
        )
    members = max(found, key=lambda members: sum(1 for _ in members.modules()))
    where = names[members]
    if any(len(seen.calls[layer]) > 1 for layer in members):
        raise Unsupported(
            f"the layers {where} of {type(causal_lm).__name__} run more than once in one pass, so "
            "a head is at several places; such models are not supported"
        )
    shape = tuple(seen.calls[members[0]][0][0].shape)
    if len(shape) != 3:
        raise Unsupported(
            f"what enters {where}.0 has the shape {list(shape)}: several residual streams, which "
            "are not supported"
        )
    if shape[:2] != tuple(ids.shape):
        raise Unsupported(
            f"what enters {where}.0 has the shape {list(shape)} for ids of {list(ids.shape)}: the "
            "model puts tokens of its own beside the prompt's, which is not supported"
        )
    last = seen.calls[members[-1]][0][1]
    read = (m for m in outside if m in seen.calls and same(seen.calls[m][0][0], last))
    final = next(read, None)  # what reads what leaves the last layer
    return Stack(
        decoder, list(members), names[decoder], where, None if final is None else names[final], last
    )


class _Seen:
    """What entered and left modules, at each of their calls."""

    def __init__(self) -> None:
        self.calls: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    @contextmanager
    def hooks(self, modules: list[nn.Module]) -> Iterator[None]:
        def see(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            x = first_floats([*args, *kwargs.values()])
            y = first_floats(output)
            if x is not None and y is not None:
                self.calls.setdefault(module, []).append((x.detach().clone(), y.detach().clone()))

        with not_compiled():
            handles = [m.register_forward_hook(see, with_kwargs=True) for m in modules]
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()

    def check_finite(self, layers: list[nn.Module], names: dict[nn.Module, str]) -> None:
        """Raise ValueError, naming the first, if a layer gives what is no number."""
        for layer in layers:
            if not all(bool(y.isfinite().all()) for _, y in self.calls.get(layer, [])):
                raise ValueError(
                    f"{names[layer]}: what it gives is not finite. The model's weights or "
                    "activations hold NaN or infinity; check the checkpoint, or use a wider dtype"
                )

    def handed_on(self, members: nn.ModuleList) -> bool:
        """Whether each member got what the one before it gave."""
        if not all(layer in self.calls for layer in members):
            return False
        first = [self.calls[layer][0] for layer in members]
        return all(x.shape == y.shape for x, y in first) and all(
            same(x, y) for (_, y), (x, _) in zip(first, first[1:], strict=False)
        )

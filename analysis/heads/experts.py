"""Which experts the tokens of the clean prompts are given to: what is kept of a checkpoint.

In a layer with a mixture of experts each token has its top experts, a set of k of E. What they do
over checkpoints is in analysis/heads/routing_changes.py.

Shape legend: P pairs, N tokens of all their clean prompts, T of the longest, k experts of a token,
E experts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import nn

from analysis.detection.detect import anatomy
from analysis.models.anatomy import Anatomy
from analysis.models.preserve import preserved
from analysis.models.routing import Routing
from analysis.prompts.pairs import Pairs

log = logging.getLogger(__name__)

PROBE = 8  # tokens that show which layers have experts
NO_TOKEN = -1  # beyond the end of a prompt
MOST = 2**15  # experts of a layer, whose numbers are kept as int16


class Tensors(Protocol):
    """Tensors by name, in memory or in a file."""

    def __getitem__(self, name: str) -> torch.Tensor: ...


@dataclass(frozen=True)
class Layer:
    """Of how many experts a layer chooses, and how many for each token."""

    experts: int
    chosen: int


@dataclass(frozen=True)
class Experts:
    """What each token of the clean prompts of some pairs was given to.

    layers: those with experts. tensors: `lengths` int32 [P], the tokens of each prompt; `same`
    int32 [P], for each pair the first with the same prompt; `experts` int32, how many each layer
    has; and for each layer, by `name_of`, int16 [N, k], in order in each token.
    """

    layers: Mapping[int, Layer]
    tensors: Tensors

    def chosen(self, layer: int) -> torch.Tensor:
        """Of a layer: int64 [N, k]."""
        return self.tensors[name_of(layer)].long()

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each prompt: int64 [P]."""
        return self.tensors["lengths"].long()

    @property
    def all_tensors(self) -> dict[str, torch.Tensor]:
        """All of `tensors` by name."""
        names = ("lengths", "same", "experts", *map(name_of, self.layers))
        return {name: self.tensors[name] for name in names}

    @property
    def about(self) -> dict[str, object]:
        """What is said of the tensors where they are named: plain values."""
        layers = {str(layer): asdict(about) for layer, about in self.layers.items()}
        return {"tokens": int(self.lengths.sum()), "layers": layers}

    @property
    def n_distinct(self) -> int:
        """Prompts that differ from each other."""
        return len(self.tensors["same"].unique())


def name_of(layer: int) -> str:
    """What a layer's tensor is called."""
    return f"layer-{layer:03}"


@torch.no_grad()
def _choices(
    model: nn.Module, parts: Anatomy, ids: torch.Tensor
) -> dict[int, tuple[torch.Tensor, int]]:
    """`Routing.experts` of each layer that has any, in a run on right-padded ids [B, T]."""
    routing = Routing.of(parts)
    with preserved(model), routing.recorded():
        parts.decoder(input_ids=ids.to(parts.device), use_cache=False)
    return {layer: routing.experts(layer) for layer in routing.layers}


def layers_with_experts(model: nn.Module, pairs: Pairs) -> dict[int, Layer]:
    """The layers of a model that choose among experts, seen in a run on a few tokens.

    None in a model without experts, and none that does not choose for each token, which is said.
    """
    ids = torch.tensor([pairs[0].clean_ids[:PROBE]])
    found = {}
    for layer, (chosen, experts) in _choices(model, anatomy(model), ids).items():
        if len(chosen) == ids.numel() and experts <= MOST:
            found[layer] = Layer(experts, chosen.shape[1])
        else:
            log.warning(
                "the routing of layer %d is not followed: %d choices, of %d experts, for %d tokens",
                *(layer, len(chosen), experts, ids.numel()),
            )
    return found


def measure_experts(
    model: nn.Module, layers: Mapping[int, Layer], length: int, pairs: Pairs, batch_size: int
) -> torch.Tensor:
    """What the tokens are given to, a row for each pair: int16 [P, T * (k of all layers)].

    layers: of `layers_with_experts`. length: T. Beyond the end of a prompt it is NO_TOKEN.

    Raises:
        ValueError: a layer does not choose as it did for `layers_with_experts`.
    """
    rows, parts = [], anatomy(model)
    for batch in pairs.batches(batch_size):
        found, (n, t) = _choices(model, parts, batch.clean), batch.clean.shape
        of_layers = []
        for layer, about in layers.items():
            chosen, _ = found.get(layer, (torch.empty(0), 0))
            if chosen.shape != (n * t, about.chosen):
                raise ValueError(
                    f"layer {layer} gives {n * t} tokens {list(chosen.shape)} experts where it "
                    f"chose {about.chosen} for each before"
                )
            ordered = chosen.cpu().view(n, t, -1).sort(-1).values
            kept = ordered.masked_fill(batch.mask[..., None] == 0, NO_TOKEN).to(torch.int16)
            rest = kept.new_full((n, length - t, about.chosen), NO_TOKEN)
            of_layers.append(torch.cat([kept, rest], 1).flatten(1))
        rows.append(torch.cat(of_layers, 1))
    return torch.cat(rows)


def as_experts(rows: torch.Tensor, layers: Mapping[int, Layer], pairs: Pairs) -> Experts:
    """What `measure_experts` has found of some pairs."""
    ids = [pair.clean_ids for pair in pairs]
    first: dict[Sequence[int], int] = {}
    tensors = {
        "lengths": torch.tensor([len(one) for one in ids], dtype=torch.int32),
        "same": torch.tensor(
            [first.setdefault(one, index) for index, one in enumerate(ids)], dtype=torch.int32
        ),
        "experts": torch.tensor([a.experts for a in layers.values()], dtype=torch.int32),
    }
    length = max(map(len, ids))
    widths = [length * about.chosen for about in layers.values()]
    for (layer, about), part in zip(layers.items(), rows.split(widths, 1), strict=True):
        tokens = part.reshape(-1, about.chosen).to(torch.int16)
        tensors[name_of(layer)] = tokens[tokens[:, 0] != NO_TOKEN]
    return Experts(dict(layers), tensors)


def find_experts(model: nn.Module, pairs: Pairs, batch_size: int = 8) -> Experts | None:
    """What a model gives the tokens of the clean prompts to; None for one without experts.

    Raises:
        ValueError: the architecture is not supported.
    """
    layers = layers_with_experts(model, pairs)
    if not layers:
        return None
    length = max(len(pair.clean_ids) for pair in pairs)
    return as_experts(measure_experts(model, layers, length, pairs, batch_size), layers, pairs)

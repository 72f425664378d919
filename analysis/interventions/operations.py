"""Change what a set of heads writes, in a live model or baked into its weights.

A head is what enters `o_proj` in its columns: z_h [e]. Every operation is

    z_h  <-  factor * z_h + constant_h(position)

    zero               factor 0, no constant (the paper's ablation)
    scale:FACTOR       factor FACTOR, no constant
    mean               factor 0; the constant is z_h's mean over the tokens of a reference set
    mean_by_position   the same for each position of its own; beyond the longest reference prompt,
                       the mean over all tokens
    resample           z_h of a token of the reference set, drawn anew for every position, and the
                       same token for all heads of the set

The residual stream gets z_h through W_O, so all this is exact. A slice of o_proj's *output* is
something else: coordinates of the residual stream, to which every head contributes.

`o_proj` is the output projection of whatever computes the heads, and whatever comes after it, a
norm say, sees the changed sum of heads.

Two forms agree to float tolerance. `intervened` hooks a live model, adapters and generation with a
cache included. `bake` (analysis/interventions/baking.py) writes the change into the weights: the
head's columns of o_proj times the factor, and o_proj applied to constant_h added to its bias.
Constants that depend on the position can't be baked. `headlab intervene` writes such a checkpoint
for other engines.

Shape legend: T tokens, P positions, n heads of one layer, e head width, d residual width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.models.graph import Head, head_name

if TYPE_CHECKING:
    import torch
    from torch import nn

    from analysis.models.anatomy import Anatomy, HeadsOf
    from analysis.models.loading import Config, Tokenizer

OPERATIONS = ("zero", "scale", "mean", "mean_by_position", "resample")
NEED_REFERENCE = ("mean", "mean_by_position", "resample")
DRAWS = 4096  # tokens that resample draws before it begins again


@dataclass(frozen=True)
class Intervention:
    """An operation on some heads."""

    operation: str
    heads: tuple[Head, ...]
    factor: float = 0.0

    def on(self, heads: Sequence[Head]) -> Intervention:
        """The same operation on other heads."""
        return Intervention(self.operation, tuple(heads), self.factor)

    def __str__(self) -> str:
        how = f"scale:{self.factor:g}" if self.operation == "scale" else self.operation
        return f"{how}:{','.join(map(head_name, self.heads))}"

    @property
    def by_layer(self) -> dict[int, list[int]]:
        """Layer -> heads of it that are changed."""
        found: dict[int, list[int]] = {}
        for layer, head in sorted(self.heads):
            found.setdefault(layer, []).append(head)
        return found


@dataclass(frozen=True)
class Constants:
    """What is added to z_h: per layer [P, n, e], its heads in the order of `by_layer`.

    Row min(position, P - 1) holds for a position, or, with `cyclic`, row position modulo P.
    """

    by_layer: dict[int, torch.Tensor]
    cyclic: bool = False

    @property
    def by_position(self) -> bool:
        """Whether they depend on the position."""
        return any(len(table) > 1 for table in self.by_layer.values())

    def rows(self, layer: int, positions: torch.Tensor) -> torch.Tensor:
        """The constants at positions [...]: [..., n, e]."""
        table = self.by_layer[layer]
        length = len(table)
        index = positions % length if self.cyclic else positions.clamp(max=length - 1)
        return table[index]


def constants(
    model: nn.Module,
    intervention: Intervention,
    reference: Sequence[Sequence[int]],
    seed: int = 0,
    parts: Anatomy | None = None,
) -> Constants | None:
    """The constants of an intervention from token ids of reference prompts; None if it has none.

    `seed` is that of resample's draws. parts: the model's anatomy, detected for None.

    Raises:
        ValueError: the operation needs a reference set and it is empty.
    """
    import torch

    if intervention.operation not in NEED_REFERENCE:
        return None
    if not reference:
        raise ValueError(
            f"{intervention.operation} takes its values from a reference set, and there is none; "
            "give a pairs file (reference=FILE)"
        )
    z = _reference_z(model, intervention, reference, parts)
    positions = torch.cat([torch.arange(len(ids)) for ids in reference])
    if intervention.operation == "resample":
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(positions), (DRAWS,), generator=generator)
        return Constants({layer: tokens[drawn] for layer, tokens in z.items()}, cyclic=True)
    means = {layer: tokens.mean(0, keepdim=True) for layer, tokens in z.items()}
    if intervention.operation == "mean":
        return Constants(means)
    length = int(positions.max()) + 1
    counts = torch.bincount(positions, minlength=length).to(next(iter(z.values())))

    def by_position(tokens: torch.Tensor) -> torch.Tensor:
        sums = tokens.new_zeros(length, *tokens.shape[1:]).index_add_(0, positions, tokens)
        return sums / counts[:, None, None]

    return Constants({m: torch.cat([by_position(z[m]), means[m]]) for m in z})


def read_reference(file: Path, tokenizer: Tokenizer, config: Config) -> list[tuple[int, ...]]:
    """The clean prompts of a pairs file, for a model of that configuration.

    Raises:
        ValueError: there is no such file, or it holds tokens or positions that the model lacks.
    """
    from analysis.models.configuration import room, vocabulary
    from analysis.prompts.pairs import Pairs, holds_text

    if not file.is_file():
        raise ValueError(f"there is no pairs file {file}")
    pairs = Pairs.load(file, tokenizer if holds_text(file) else None, metric="kl")
    pairs.check_vocabulary(vocabulary(config))
    pairs.check_length(room(config, max(len(pair.clean_ids) for pair in pairs)))
    return [pair.clean_ids for pair in pairs]


def _reference_z(
    model: nn.Module,
    intervention: Intervention,
    reference: Sequence[Sequence[int]],
    parts: Anatomy | None,
) -> dict[int, torch.Tensor]:
    """z of the intervention's heads at every token of the reference: per layer [T, n, e]."""
    import torch

    from analysis.detection.audits import proved
    from analysis.detection.detect import anatomy
    from analysis.models.forward import run_decoder
    from analysis.models.hooks import Hooks
    from analysis.models.linear import wide
    from analysis.models.preserve import preserved

    parts = proved(model, anatomy(model) if parts is None else parts, only_heads=True)
    seen: dict[int, list[tuple[list[int], torch.Tensor]]] = {
        layer: [] for layer in intervention.by_layer
    }
    with preserved(model), Hooks() as hooks:
        for layer, some in _parts(parts, intervention):

            def keep(z: torch.Tensor, layer: int = layer, some: HeadsOf = some) -> None:
                of_heads = z.flatten(0, -2).unflatten(-1, (some.part.n_heads, -1))
                seen[layer].append((some.places, wide(of_heads[:, some.heads]).cpu()))

            hooks.input(some.part.o_proj, keep)
        for ids in reference:
            run_decoder(parts, torch.tensor([list(ids)], device=parts.device))
    found = {layer: _in_order(rows) for layer, rows in seen.items()}
    tokens = sum(map(len, reference))
    for layer, z in found.items():
        if len(z) != tokens:
            raise ValueError(
                f"layer {layer} has {len(z)} tokens of a reference of {tokens}: the model adds "
                "tokens of its own, so what is a head's at a position can't be said"
            )
    return found


def _parts(parts: Anatomy, intervention: Intervention) -> Iterator[tuple[int, HeadsOf]]:
    """The output projections of the intervention's heads, each with its layer."""
    for layer, heads in intervention.by_layer.items():
        for some in parts.heads_of(layer, heads):
            yield layer, some


def _in_order(seen: list[tuple[list[int], torch.Tensor]]) -> torch.Tensor:
    """What was seen of a layer's output projections, [T, some, e] each, as [T, n, e]."""
    import torch

    of_part: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for places, z in seen:
        of_part.setdefault(tuple(places), []).append(z)
    order = torch.tensor([place for places in of_part for place in places])
    return torch.cat([torch.cat(rows) for rows in of_part.values()], 1)[:, order.argsort()]


@contextmanager
def intervened(
    model: nn.Module,
    intervention: Intervention | None,
    added: Constants | None = None,
    parts: Anatomy | None = None,
) -> Iterator[None]:
    """Inside, the heads of a live model are changed; outside, nothing is.

    `added` comes from `constants`. None for the intervention changes nothing. parts: the model's
    anatomy, detected for None.

    Raises:
        ValueError: the operation needs constants and there are none.
    """
    import torch

    from analysis.detection.audits import proved
    from analysis.detection.detect import anatomy
    from analysis.models.hooks import Hooks

    if intervention is None:
        yield
        return
    if added is None and intervention.operation in NEED_REFERENCE:
        raise ValueError(f"{intervention.operation} needs the constants of a reference set")
    parts = proved(model, anatomy(model) if parts is None else parts, only_heads=True)
    with Hooks() as hooks, _positions(parts, added) as position:
        for layer, some in _parts(parts, intervention):

            def change(z: torch.Tensor, layer: int = layer, some: HeadsOf = some) -> torch.Tensor:
                new = z.clone(memory_format=torch.contiguous_format)
                new = new.unflatten(-1, (some.part.n_heads, -1))
                new[..., some.heads, :] *= intervention.factor
                if added is not None:
                    # of a prefill a layer may see the last tokens only; z may be [B * T, H * e]
                    ids = position["ids"] if z.ndim < 3 else position["ids"][:, -z.shape[1] :]
                    constant = added.rows(layer, ids)[..., some.places, :].to(z)
                    tokens = new.view(-1, ids.shape[1], *new.shape[-2:])
                    tokens[..., some.heads, :] += constant
                return new.flatten(-2)

            hooks.input(some.part.o_proj, change)
        yield


@contextmanager
def _positions(parts: Anatomy, added: Constants | None) -> Iterator[dict[str, torch.Tensor]]:
    """The positions of the tokens in the current forward pass, as `ids`: [rows or 1, T].

    Where no constant depends on them, one that stands for all: [1, 1].
    """
    import torch

    seen: dict[str, torch.Tensor] = {"ids": torch.zeros(1, 1, dtype=torch.long)}
    if added is None or not added.by_position:
        yield seen
        return

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["ids"] = _position_ids(args, kwargs).cpu()

    handle = parts.decoder.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _position_ids(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The positions that a decoder is given, or counts itself: [rows or 1, T]."""
    import torch

    ids: torch.Tensor | None = kwargs.get("position_ids")
    if ids is not None:
        return ids if ids.ndim == 2 else ids[0]  # of those by time, height and width, by time
    tokens = kwargs.get("input_ids", args[0] if args else None)
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    assert tokens is not None
    length = int(tokens.shape[1])
    mask = kwargs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        return (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -length:]
    cache = kwargs.get("past_key_values")
    start = 0 if cache is None else int(cache.get_seq_length())
    return torch.arange(start, start + length)[None]

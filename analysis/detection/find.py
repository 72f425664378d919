"""The plan of a model: its anatomy, found in three or four runs of the model on a few tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from analysis.detection.layers import Stack, find_layers, run, text_config, tokens_for
from analysis.detection.linear import LinearHeads
from analysis.detection.mixers import MixerFinder
from analysis.detection.norms import closed_form
from analysis.detection.parts import Attention, Parts, Read, find_parts
from analysis.detection.plan import (
    HeadsPlan,
    LayerPlan,
    NodePlan,
    NormPlan,
    Plan,
    ReadingPlan,
    SidePlan,
    Update,
)
from analysis.detection.points import Numbers
from analysis.detection.rows import RowFinder
from analysis.detection.trace import LayerTrace, Tracer
from analysis.models.preserve import preserved


def find(causal_lm: Any) -> Plan:
    """The plan of a causal language model (the one inside, of a PEFT model).

    The model is run on a few ids, and left as it was.

    Raises:
        Unsupported: no anatomy of the kind that is known here fits; the message says where and why.
    """
    with preserved(causal_lm):
        ids = tokens_for(causal_lm)
        stack = find_layers(causal_lm, ids)
        known = list(_numbers(text_config(causal_lm).to_dict()))
        known += [number / len(stack.layers) ** 0.5 for number in known]  # MiniCPM's depth
        parts: list[Parts] = []
        numbers: list[Numbers] = []

        def see(index: int, trace: LayerTrace) -> None:
            assert trace.call.x is not None
            numbers.append(Numbers(known, _held(trace.call.module), trace.call.x.shape[-1]))
            parts.append(find_parts(trace, numbers[-1], f"layer {index}"))

        with torch.no_grad(), Tracer(stack.layers, see).running():
            run(causal_lm, ids)
        rows = RowFinder(stack.layers, [part.attentions for part in parts])
        mixers = MixerFinder(stack.layers, [tuple(part.nodes) for part in parts])
        with rows.running(), mixers.running():
            run(causal_lm, ids)
        letters = mixers.letters()
        sides = [
            own + more
            for own, more in zip(
                rows.sides, _linear_heads(causal_lm, ids, stack, parts, letters), strict=True
            )
        ]
        found = zip(parts, numbers, sides, letters, strict=True)
        layers = [_layer(*of_layer) for of_layer in found]
        width = stack.last.shape[-1]
        final = _final(causal_lm, stack)
        return Plan(tuple(layers), stack.layers_name, stack.decoder_name, width, final)


def _linear_heads(
    causal_lm: Any,
    ids: torch.Tensor,
    stack: Stack,
    parts: list[Parts],
    letters: list[tuple[NodePlan, ...]],
) -> list[list[list[SidePlan]]]:
    """The sides of mixers that have heads, layer by layer; these become attentions of the parts.

    The letter of their node becomes none.
    """
    mixers = [
        {index: own.mixers[index] for index in own.mixers if nodes[index].letter == "x"}
        for own, nodes in zip(parts, letters, strict=True)
    ]
    if not any(mixers):
        return [[] for _ in parts]
    finder = LinearHeads(
        stack.layers, [list(own.values()) for own in mixers], text_config(causal_lm).to_dict()
    )
    with finder.running():
        run(causal_lm, ids)
    found = []
    for layer, (own, candidates, sides) in enumerate(zip(parts, mixers, finder.sides, strict=True)):
        proved = [
            (index, mixer, side)
            for (index, mixer), side in zip(candidates.items(), sides, strict=True)
            if side
        ]
        found.append([side for _, _, side in proved])
        for index, mixer, _ in proved:
            own.attentions.append(mixer)
            (written,) = letters[layer][index].writes
            shares = own.updates[letters[layer][index].point - 1].shares
            shares[mixer.o_proj.name] = shares[written]
        gone = {index for index, _, _ in proved}
        letters[layer] = tuple(
            node for index, node in enumerate(letters[layer]) if index not in gone
        )
    return found


def _numbers(config: dict[str, Any]) -> Iterator[float]:
    """All numbers of a configuration that a share may be."""
    for value in config.values():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, float) and value != 0.0:
            yield value


def _held(layer: nn.Module) -> dict[str, torch.Tensor]:
    """What a layer holds itself, beside its modules."""
    return dict((*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)))


def _layer(
    parts: Parts,
    numbers: Numbers,
    sides: Sequence[list[SidePlan]],
    nodes: tuple[NodePlan, ...],
) -> LayerPlan:
    readings: list[ReadingPlan] = []
    first = 0
    for attention, own in zip(parts.attentions, sides, strict=True):
        readings += _readings(attention, [side.numbered_on(first) for side in own])
        first += attention.n_heads
    heads = tuple(_heads(attention) for attention in parts.attentions)
    updates = [_named(update, numbers) for update in parts.updates]
    scales = [reading.scale for reading in readings]
    scales += [tap.scale for node in nodes for tap in node.taps]
    fixed = None not in updates and all(scale in numbers.known for scale in scales)
    named = tuple(new or old for new, old in zip(updates, parts.updates, strict=True))
    return LayerPlan(named, tuple(readings), heads, nodes, fixed)


def _named(update: Update, numbers: Numbers) -> Update | None:
    """An update with the names of its factors, if all of them have one."""
    kept = numbers.name(update.kept)
    shares = {module: numbers.name(share) for module, share in update.shares.items()}
    return None if kept is None or None in shares.values() else Update(kept, shares)


def _heads(attention: Attention) -> HeadsPlan:
    assert attention.point is not None
    return HeadsPlan(
        attention.face.call.name,
        attention.o_proj.name,
        attention.n_heads,
        attention.after,
        attention.point,
        attention.kind,
    )


def _readings(attention: Attention, sides: list[SidePlan]) -> list[ReadingPlan]:
    """The sides of an attention, by what their linears read; in the sides' order."""
    found: dict[Any, list[SidePlan]] = {}
    reads: dict[str, Read] = {call.name: read for call, read in attention.readers}
    for side in sides:
        read = reads[side.module]
        norm = None if read.norm is None else read.norm.plan
        found.setdefault((norm, read.point, read.scale), []).append(side)
    return [
        ReadingPlan(norm, own[0].module if norm is None else norm.module, point, scale, tuple(own))
        for (norm, point, scale), own in found.items()
    ]


def _final(causal_lm: Any, stack: Stack) -> NormPlan | None:
    """The norm that reads what leaves the last layer, if it is one."""
    if stack.final is None:
        return None
    module = causal_lm.get_submodule(stack.final)
    form = closed_form(module, stack.last)
    return None if form is None else NormPlan(stack.final, form)

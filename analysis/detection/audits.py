"""Proofs that a model is what its anatomy says, on a few tokens, before any number is made.

    logits    the engine's runs give the logits of the model itself
    causal    what stands behind a token changes nothing at it, padding included
    outside   what the layers do depends on the stream that enters them, and not on the tokens
    gradient  nothing reads the stream but the destinations, and each reads what is said
    heads     the rows of a destination reach the heads that it feeds, and no other

and `analysis.models.audit`, that what the sources write adds up to the stream wherever it is read.
All but `logits` look at every layer by itself (analysis/detection/probe.py), so that they name the
layer, and are as sharp in bfloat16, where the errors of many layers would hide a fault.

A norm over the queries of all heads ties heads together: there a destination is its rows of the
projection, with what the norm makes of them. That is told, and no error.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from analysis.detection.closeness import Closeness
from analysis.detection.detect import anatomy
from analysis.detection.probe import SHORT, prompts, run_alone, run_layerwise
from analysis.detection.reaches import check_heads
from analysis.detection.readers import check_readers
from analysis.detection.streams import check_logits, check_streams
from analysis.models.anatomy import Anatomy, Unsupported
from analysis.models.compat import attention_kind, changes_in_place, hooks_on
from analysis.models.copies import ungrouped
from analysis.models.forward import logits_of
from analysis.models.hooks import not_compiled
from analysis.models.linear import wide
from analysis.models.preserve import preserved

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Proof:
    """What was proved of a model, in which state, and what there is to tell."""

    state: object
    only_heads: bool
    notes: list[str]


_proved: weakref.WeakKeyDictionary[nn.Module, _Proof] = weakref.WeakKeyDictionary()


def proved(model: nn.Module, parts: Anatomy, only_heads: bool = False) -> Anatomy:
    """The anatomy, once it is proved (`prove`).

    One that was kept may be of a model whose weights hid something, and is then found anew.
    """
    try:
        prove(model, parts, only_heads)
    except Unsupported as error:
        if not parts.kept:
            raise
        try:
            parts = anatomy(model, parts.graph.kv, anew=True)
            prove(model, parts, only_heads)
        except Unsupported:
            raise error from None  # which says more: that of parts that are known
    return parts


def prove(model: nn.Module, parts: Anatomy, only_heads: bool = False) -> list[str]:
    """Prove that an anatomy is that of a model; what is worth telling about it, in lines.

    A proof holds as long as no weight, no hook and no module of the model changes, and is not made
    again. It is for other weights: those that are 0 now may hide a reader of the stream. The model
    keeps its modes and random states.

    Args:
        only_heads: the heads audit is enough, as for what changes or looks at what heads write, and
            neither pads prompts nor follows the stream.

    Raises:
        Unsupported: something is not as the anatomy says; the audit, the layer and the likely
            reason are named.
    """
    state, known = _state(model, parts), _proved.get(model)
    if known is not None and known.state == state and (only_heads or not known.only_heads):
        return known.notes
    with preserved(model):
        proof = _Proof(state, only_heads, _audit(model, parts, only_heads))
    for note in proof.notes:
        log.info(note)
    _proved[model] = proof
    return proof.notes


def _audit(model: nn.Module, parts: Anatomy, only_heads: bool) -> list[str]:
    close = Closeness.of(parts)
    both = prompts(parts).to(parts.device)
    short = both[:1, : min(SHORT, both.shape[1] - 1)]
    with torch.no_grad(), not_compiled():
        own = None if only_heads else wide(logits_of(model(input_ids=short, use_cache=False)))[0]
    with ungrouped(parts):
        alone, ours = run_alone(parts, short)
        rerun = partial(run_layerwise, parts, both, alone)
        if own is not None:
            check_logits(close, own, ours)
        layerwise, logits = rerun()
        if own is not None:
            check_streams(close, layerwise, logits.detach(), ours)
            check_readers(close, parts, layerwise, logits, rerun)
        return check_heads(close, parts, layerwise, lambda: rerun(freeze=True)[0])


def _state(model: nn.Module, parts: Anatomy) -> object:
    """What a proof depends on: equal as long as nothing has changed.

    torch counts the changes of a tensor in place, but for those made through `.data`; the parts of
    a model add up, or not, in every run (`analysis.models.audit`).
    """
    tensors = chain(model.parameters(), model.buffers())
    weights = [(id(x), x.data_ptr(), changes_in_place(x)) for x in tensors]
    hooks = [(id(m), *hooks_on(m)) for m in model.modules()]
    config: Any = parts.causal_lm.config
    return parts.graph, _content(parts.blocks), weights, hooks, attention_kind(config)


def _content(part: Any) -> object:
    """All that a part of an anatomy says, modules by their identity."""
    if isinstance(part, tuple):
        return [_content(one) for one in part]
    if isinstance(part, torch.Tensor):
        return part.tolist()
    if is_dataclass(part):
        return [_content(getattr(part, one.name)) for one in fields(part)]
    return id(part) if isinstance(part, nn.Module) else part

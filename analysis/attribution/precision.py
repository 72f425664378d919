"""Whether a model's narrow floats change the scores that matter: its top edges, once in float32.

A few pairs are scored again with the model's weights widened to float32, and what is compared are
the edges that score highest there. bfloat16 has 8 bits of precision: scores of 5 % more or less are
usual, and a rank among thousands of edges may move; float16 has 11 bits, and gradients that are too
small for it are 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from analysis.attribution.eap import attribute
from analysis.attribution.edge_scores import EdgeScores
from analysis.models.anatomy import base_model
from analysis.models.compat import own_tensors, unwrapped
from analysis.models.quantised import packed_weight
from analysis.prompts.pairs import Pairs

log = logging.getLogger(__name__)

CHECKED = 4  # pairs
TOP = 100  # edges
AGREED = 0.9  # of the top edges; where fewer are, it is a warning


@dataclass(frozen=True)
class Precision:
    """How scores in `dtype` agree with those in float32, of the `edges` that are highest there.

    overlap: the share of them that are among the highest in `dtype`. rank: the correlation of their
    ranks (Spearman). error: the largest difference, as a share of the score in float32.
    """

    dtype: str
    pairs: int
    edges: int
    overlap: float
    rank: float
    error: float

    def __str__(self) -> str:
        return (
            f"{self.dtype} against float32, top {self.edges} edges on {self.pairs} pairs: "
            f"{self.overlap:.0%} the same, rank correlation {self.rank:.3f}, scores off by up to "
            f"{self.error:.1%}"
        )


def check_dtype(
    model: nn.Module, pairs: Pairs, scores: EdgeScores, **settings: Any
) -> Precision | None:
    """Score the first pairs in float32 and compare; what is found is logged. The model is left.

    It costs an attribution of CHECKED pairs, and twice the memory of the weights beside them.

    Args:
        scores: of all pairs, as `attribute` gave them with these settings.

    Returns:
        None, with a note in the log, where there is nothing to check: float32 already, or weights
        that can't be widened (quantised or offloaded).
    """
    if (reason := unchecked(model)) is not None:
        log.info("check_dtype: %s", reason)
        return None
    some = Pairs(pairs[:CHECKED])
    kind = next(p.dtype for p in unwrapped(model).parameters() if p.dtype in _NARROW)
    with in_float32(model):
        wide = attribute(model, some, **settings)
    name = str(kind).removeprefix("torch.")
    found = compared(name, scores.per_edge[: len(some)].mean(0), wide.per_edge.mean(0), len(some))
    say = log.info if found.overlap >= AGREED else log.warning
    say("check_dtype: %s", found)
    return found


def compared(dtype: str, narrow: torch.Tensor, wide: torch.Tensor, pairs: int) -> Precision:
    """The agreement of two scores of the same edges: [E] each."""
    narrow, wide = narrow.double(), wide.double()
    count = min(TOP, len(wide))
    top = wide.abs().topk(count).indices
    both = set(top.tolist()) & set(narrow.abs().topk(count).indices.tolist())
    ranks = torch.stack([scores[top].argsort().argsort().double() for scores in (narrow, wide)])
    rank = float(torch.corrcoef(ranks)[0, 1]) if count > 1 else 1.0
    error = float(((narrow - wide)[top] / wide[top]).abs().max())
    return Precision(dtype, pairs, count, len(both) / count, rank, error)


_NARROW = (torch.bfloat16, torch.float16)


def unchecked(model: nn.Module) -> str | None:
    """Why a model can't be checked, or need not; None if it can."""
    whole = unwrapped(model)
    if any(parameter.is_meta for parameter in whole.parameters()):
        return "the weights are offloaded, and not widened"
    if packed_weight(whole) is not None:
        return "the weights are quantised, and not widened"
    if not any(parameter.dtype in _NARROW for parameter in base_model(whole).parameters()):
        return "the model is in float32 or wider already"
    return None


def copied(model: nn.Module) -> int:
    """Bytes of the float32 copies that `in_float32` makes."""
    narrow = (p for p in unwrapped(model).parameters() if p.dtype in _NARROW)
    return sum(4 * p.numel() for p in narrow)


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Inside, a model has float32 copies of its narrow weights; its own are not touched.

    Its modules hold other parameters meanwhile: to change a parameter's type would cost it the
    hooks by which DDP reduces its gradient.
    """
    copies: dict[int, torch.Tensor] = {}
    before: list[tuple[dict[str, Any], str, torch.Tensor]] = []

    def widened(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in copies:  # else one that is tied
            new = tensor.detach().float()
            is_weight = isinstance(tensor, nn.Parameter)
            copies[id(tensor)] = nn.Parameter(new, requires_grad=False) if is_weight else new
        return copies[id(tensor)]

    try:
        for module in model.modules():
            for held in own_tensors(module):
                for name, tensor in held.items():
                    if tensor is not None and tensor.dtype in _NARROW:
                        before.append((held, name, tensor))
                        held[name] = widened(tensor)
        yield
    finally:
        for held, name, tensor in before:
            held[name] = tensor

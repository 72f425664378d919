"""Whether an attribution runs each layer twice: `recompute` of true, false or auto.

auto runs each once where what that is known to need is free, and twice where it is not. Nothing is
counted where a rough upper bound is free, so that small models pay nothing.
"""

from __future__ import annotations

import logging

from analysis.attribution.gradient_run import check_recomputed
from analysis.attribution.graph_bytes import graph_bytes
from analysis.attribution.memory import Sizes, need
from analysis.models.anatomy import Anatomy, Unsupported
from analysis.models.room import free_memory
from analysis.prompts.pairs import Pairs

log = logging.getLogger(__name__)

AUTO = "auto"
# Of the bytes that are counted; on a CPU glibc keeps gaps between what goes and what stays
# (1.3 to 1.9 times, docs/LOG.md), on a GPU torch rounds up.
GAPS = {"cpu": 2.0, "cuda": 1.2}
_GENEROUS = 4  # times the widths of all matrices, which a token is thought to leave at most
_PATTERNS = 4  # and this often each head's pattern
_GIB = 2**30


def check_recompute(recompute: object) -> None:
    """Raise ValueError for anything but true, false and auto."""
    if recompute not in (True, False, AUTO):
        raise ValueError(f"recompute is {recompute!r}; give true, false or auto")


def recomputes(
    recompute: bool | str, parts: Anatomy, pairs: Pairs, batch_size: int, budget: int
) -> bool:
    """Whether each layer is run twice, for batches of so many pairs.

    Raises:
        Unsupported: recompute is true, and the model's layers can't be run twice.
    """
    if not recompute:
        return False
    if recompute == AUTO and _fits(parts, pairs, batch_size, budget):
        return False
    try:
        check_recomputed(parts, pairs)
    except Unsupported as error:
        if recompute != AUTO:
            raise
        log.warning("%s; memory may not be enough", error)
        return False
    return True


def _fits(parts: Anatomy, pairs: Pairs, batch_size: int, budget: int) -> bool:
    free = free_memory(parts.device)
    if free is None:
        return True
    n_pairs, length = min(batch_size, len(pairs)), max(len(pair.clean_ids) for pair in pairs)
    if _at_most(parts, n_pairs, length) < free:
        return True
    gaps, sizes, kept = GAPS.get(parts.device.type, 1.0), Sizes.of(parts), graph_bytes(parts)
    plain, twice = (
        gaps * need(sizes, kept, n_pairs, length, budget, recompute=again).above
        for again in (False, True)
    )
    if plain < free:
        return True
    log.info(
        "recompute=auto: %d pairs of up to %d tokens at a time need about %.1f GiB, and %.1f are "
        "free; each layer is run twice (%.1f GiB), which takes about half as long again",
        *(n_pairs, length, plain / _GIB, free / _GIB, twice / _GIB),
    )
    return False


def _at_most(parts: Anatomy, n_pairs: int, length: int) -> float:
    """Bytes that are surely enough for what is not told by the tokens' recurrence."""
    if any(part.kind != "softmax" for _, part in parts.heads):
        return float("inf")
    if any(node.letter == "x" for _, _, node in parts.nodes):
        return float("inf")
    widths = sum(sum(p.shape[-2:]) for p in parts.causal_lm.parameters() if p.ndim > 1)
    patterns = len(parts.graph.heads) * length * _PATTERNS
    tokens = n_pairs * length
    return float(parts.dtype.itemsize * tokens * (_GENEROUS * widths + patterns))

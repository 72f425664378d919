"""Random sets of heads that match a given set: as many in each layer, none of the set."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence

from analysis.models.graph import Graph, Head

log = logging.getLogger(__name__)

TRIES = 50  # draws for each random set that is different from those before


def matched_random_sets(
    heads: Sequence[Head], graph: Graph, count: int, seed: int
) -> list[list[Head]]:
    """`count` different random sets, each with as many heads in each layer as the given set.

    No head of the given set is in them. If a layer has too few other heads, the nearest layers
    with heads to spare give the rest. If there are not `count` different sets, fewer are returned,
    with a warning.

    Raises:
        ValueError: the set holds more than half of all heads, so nothing of equal size is left.
    """
    taken, everything = set(heads), graph.n_layers * graph.n_heads
    if 2 * len(taken) > everything:
        raise ValueError(
            f"the set holds {len(taken)} of {everything} heads, so there is no random set of equal "
            "size without them; give fewer heads (...:10 takes the most important), or controls=0"
        )
    wanted = Counter(layer for layer, _ in taken)
    generator = random.Random(seed)
    found: dict[tuple[Head, ...], None] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        found[tuple(_matched(wanted, taken, graph, generator))] = None
    if len(found) < count:
        log.warning(
            "only %d different random sets match the heads (%d asked for)", len(found), count
        )
    return [list(heads) for heads in found]


def _matched(
    wanted: Counter[int], taken: set[Head], graph: Graph, generator: random.Random
) -> list[Head]:
    left = {
        layer: [(layer, h) for h in range(graph.n_heads) if (layer, h) not in taken]
        for layer in range(graph.n_layers)
    }
    for others in left.values():
        generator.shuffle(others)
    found, missing = [], []
    for layer, number in sorted(wanted.items()):
        mine, left[layer] = left[layer][:number], left[layer][number:]
        found += mine
        missing += [layer] * (number - len(mine))
    for layer in missing:
        near = min((other for other in left if left[other]), key=lambda other: abs(other - layer))
        found.append(left[near].pop())
    return sorted(found)

"""Random sets of heads that match a given set: as many of a kind in each layer, none of the set."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence

from analysis.models.graph import Graph, Head

log = logging.getLogger(__name__)

Place = tuple[int, str]  # layer and kind of a head
TRIES = 50  # draws for each random set that is different from those before


def matched_random_sets(
    heads: Sequence[Head], graph: Graph, count: int, seed: int
) -> list[list[Head]]:
    """`count` different random sets, each with as many heads in each layer as the given set.

    No head of the given set is in them, and for a head of linear attention stands another such. If
    a layer has too few other heads, the nearest layers with heads to spare give the rest. If there
    are not `count` different sets, fewer are returned, with a warning.

    Raises:
        ValueError: the set holds more than half of all heads, so nothing of equal size is left.
    """
    taken, kinds = set(heads), dict(zip(graph.heads, graph.head_kinds, strict=True))
    for kind, everything in Counter(kinds.values()).items():
        held = sum(kinds[head] == kind for head in taken)
        if 2 * held > everything:
            of_kind = "" if len({*kinds.values()}) < 2 else f"{kind} "
            raise ValueError(
                f"the set holds {held} of {everything} {of_kind}heads, so there is no random set "
                "of equal size without them; give fewer heads (...:10 takes the most important), "
                "or controls=0"
            )
    wanted = Counter((head[0], kinds[head]) for head in taken)
    others: dict[Place, list[Head]] = {}
    for head, kind in kinds.items():
        others.setdefault((head[0], kind), [])
        if head not in taken:
            others[head[0], kind].append(head)
    generator = random.Random(seed)
    found: dict[tuple[Head, ...], None] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        found[tuple(_matched(wanted, others, generator))] = None
    if len(found) < count:
        log.warning(
            "only %d different random sets match the heads (%d asked for)", len(found), count
        )
    return [list(heads) for heads in found]


def _matched(
    wanted: Counter[Place], others: dict[Place, list[Head]], generator: random.Random
) -> list[Head]:
    left = {place: list(heads) for place, heads in others.items()}
    for heads in left.values():
        generator.shuffle(heads)
    found, missing = [], []
    for place, number in sorted(wanted.items()):
        mine, left[place] = left[place][:number], left[place][number:]
        found += mine
        missing += [place] * (number - len(mine))
    for layer, kind in missing:
        alike = [other for other, heads in left.items() if heads and other[1] == kind]
        near = min(alike, key=lambda other: abs(other[0] - layer))
        found.append(left[near].pop())
    return sorted(found)

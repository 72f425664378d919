"""Which pairs say the same thing again: the clusters of pairs that share a prompt.

Two pairs are in one cluster if they share a prompt, clean or corrupted, in any place: so a pair
that is repeated, reversed, or built of the prompts of others counts once. A statistic's noise is
that of distinct prompts, so what is resampled is the clusters. One corrupted prompt that all pairs
share is a fixed baseline, and links nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

Prompt = frozenset[Hashable]  # what a prompt is known by; two that have one in common are alike


def clusters(clean: Sequence[Prompt], corrupted: Sequence[Prompt]) -> list[int]:
    """For each pair the number of its cluster; they are numbered as they come, from 0.

    >>> clusters(*([frozenset(name) for name in prompts] for prompts in ("abca", "xyzx")))
    [0, 1, 2, 0]
    >>> clusters(*([frozenset(name) for name in prompts] for prompts in ("abc", "xxx")))
    [0, 1, 2]
    """
    if frozenset.intersection(*corrupted):
        corrupted = [frozenset()] * len(clean)
    parent = list(range(len(clean)))

    def root(pair: int) -> int:
        while parent[pair] != pair:
            parent[pair] = parent[parent[pair]]
            pair = parent[pair]
        return pair

    first: dict[Hashable, int] = {}
    for pair, prompts in enumerate(zip(clean, corrupted, strict=True)):
        for known_by in frozenset.union(*prompts):
            a, b = sorted((root(first.setdefault(known_by, pair)), root(pair)))
            parent[b] = a
    number: dict[int, int] = {}
    return [number.setdefault(root(pair), len(number)) for pair in range(len(clean))]

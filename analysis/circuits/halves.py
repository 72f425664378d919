"""Two halves of the pairs, for circuits that are chosen on one and measured on the other.

A circuit that is measured on the pairs which ranked its edges looks better than it is on others.
Cross-fitted, each pair is measured under a circuit whose edges the other half of the pairs ranked,
so every pair counts, and none under a circuit that it had a part in (Chernozhukov et al. 2018,
arXiv 1608.00060). A half ranks with more noise than all pairs do, so what is kept is rather
understated for the circuit that all pairs rank.

Pairs that share a prompt stand in one half, or it would be the same prompt again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch


def halves(groups: Sequence[int], seed: int) -> list[int] | None:
    """The half of each pair, 0 or 1; None where one cluster holds all pairs.

    groups: the cluster of each pair. Clusters are drawn in an order of `seed`, the large ones
    first, each into the half that has fewer pairs.
    """
    sizes = Counter(groups)
    if len(sizes) < 2:
        return None
    names = sorted(sizes)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    filled, half = [0, 0], {}
    for name in sorted((names[place] for place in order), key=lambda name: -sizes[name]):
        half[name] = filled.index(min(filled))
        filled[half[name]] += sizes[name]
    return [half[group] for group in groups]

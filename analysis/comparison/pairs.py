"""Everything about two circuits, and the layers of one."""

from __future__ import annotations

import torch

from analysis.comparison.definitions import Comparison, Profile, Subject, check_pair
from analysis.comparison.edges import compare_edges
from analysis.comparison.heads import compare_bases, compare_heads, importance_of, members
from analysis.heads.changes import FDR
from analysis.intervals import bare, estimate, estimate_of_set


def compare_subjects(
    a: Subject,
    b: Subject,
    q: float = FDR,
    per_pair: tuple[torch.Tensor, torch.Tensor] | None = None,
    show_progress: bool = False,
) -> Comparison:
    """Everything about two circuits.

    Raises:
        ValueError: they do not measure the same thing.
    """
    check_pair(a, b)
    return Comparison(
        a,
        b,
        compare_heads(a, b, q),
        compare_edges(a, b, per_pair, show_progress),
        compare_bases(a, b, q),
    )


def profile(subject: Subject) -> Profile:
    """Heads and importance by layer."""
    graph = subject.graph
    size = (graph.n_layers, graph.n_heads)
    if subject.record is None:
        heads = members(subject).view(size).sum(1).tolist()
        shares = importance_of(subject).view(size).mean(1)
        return Profile([bare(float(n)) for n in heads], [bare(x) for x in shares.tolist()])
    found = subject.record.heads
    counts = found.inside.unflatten(1, size).sum(2).double()
    means = found.importance.unflatten(1, size).mean(2)
    return Profile(
        [estimate_of_set(counts[:, layer], 0, graph.n_heads) for layer in range(graph.n_layers)],
        [estimate(means[:, layer]) for layer in range(graph.n_layers)],
    )

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
    """Heads and importance by layer; a layer without heads has no mean importance."""
    graph = subject.graph
    sizes = torch.tensor([graph.heads_in(layer) for layer in range(graph.n_layers)])
    if subject.record is None:
        heads = graph.grid(members(subject), False).sum(1).tolist()
        shares = graph.grid(importance_of(subject), 0.0).sum(1) / sizes
        return Profile([bare(float(n)) for n in heads], [bare(x) for x in shares.tolist()])
    found = subject.record.heads
    counts = graph.grid(found.inside, False).sum(2).double()
    means = graph.grid(found.importance, 0.0).sum(2) / sizes
    return Profile(
        [estimate_of_set(counts[:, layer], 0, n) for layer, n in enumerate(sizes.tolist())],
        [estimate(means[:, layer]) for layer in range(graph.n_layers)],
    )

"""Heads and edges of two records: an oracle, the same record twice, noise, profiles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from analysis.comparison.edges import compare_edges, edge_memberships
from analysis.comparison.pairs import compare_subjects, profile
from analysis.heads.changes import jaccard
from analysis.heads.resampling import Selection, select
from analysis.reporting.text import has_interval
from tests.support.comparisons import (
    GRAPH,
    LATE,
    plant,
    subject,
)


def test_edges_against_an_oracle():
    """The streamed bootstrap of edges is the one made all at once."""
    torch.manual_seed(1)
    scores = [torch.rand(9, GRAPH.n_edges) ** 4 for _ in range(2)]
    a, b = (subject(name, rows, 12) for name, rows in zip("ab", scores, strict=True))
    assert a.record is not None and b.record is not None
    records = (a.record, b.record)
    inside = [torch.cat([*edge_memberships(records[i], scores[i])]) for i in (0, 1)]
    assert inside[0].shape == (61, GRAPH.n_edges)
    order = torch.argsort(GRAPH.edges[:, 1], stable=True)
    assert torch.equal(inside[0][0], a.edges[order])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(9, (60, 9), generator=generator)  # each resample, from its definition
    for row in (0, 30, 59):
        mean = scores[1][drawn[row]].mean(0)
        assert torch.equal(inside[1][1 + row], select(GRAPH, mean, Selection(12))[order])
    found = compare_edges(a, b, (scores[0], scores[1]))
    expected = jaccard(*inside)
    assert found.numbers["jaccard"].value == float(expected[0])
    assert found.numbers["gained"].value == float((inside[1][0] & ~inside[0][0]).sum())
    assert torch.allclose(found.inclusion[1][order].double(), inside[1][1:].double().mean(0))
    nulls = [1 - jaccard(rows[1:], rows[1:].roll(1, 0)).mean() for rows in inside]
    assert found.null_turnover == pytest.approx(float(sum(nulls) / 2))
    chance = (inside[0][1:] & ~inside[0][1:].roll(1, 0)).sum(1).double().mean()
    assert found.null["gained"][0] == pytest.approx(float(chance))


def test_a_record_is_equal_to_itself():
    torch.manual_seed(2)
    scores = torch.rand(10, GRAPH.n_edges) ** 4
    a, b = (subject(name, scores, 10) for name in "ab")
    found = compare_subjects(a, b, per_pair=(scores, scores))
    for difference in (found.heads, found.edges):
        assert vars(difference.numbers["jaccard"]) == {"value": 1, "low": 1, "high": 1}
        assert not difference.masks["gained"].any()
        assert not difference.masks["lost"].any()
        assert difference.numbers["gained"].high == 0
    assert found.bases is None
    assert float(found.heads.effect.abs().max()) == 0


def test_noise_is_not_called():
    """Two noisy measurements of one thing: nothing is called, no change is beyond its interval."""
    within = differ = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        truth = 0.05 + torch.rand(GRAPH.n_edges, generator=generator) ** 3
        noise = torch.randn(2, 24, GRAPH.n_edges, generator=generator)
        scores = truth * (1 + 1.5 * noise)
        a, b = (subject(name, rows, 30) for name, rows in zip("ab", scores, strict=True))
        found = compare_subjects(a, b, per_pair=(scores[0], scores[1]))
        assert not any(mask.any() for mask in found.heads.called.values())
        assert found.heads.numbers["jaccard"].high == 1
        assert found.heads.numbers["gained"].low == 0
        differ += int(found.edges.masks["gained"].any())
        excess = found.edges.numbers["excess turnover"]
        within += excess.low <= 0 <= excess.high
    assert differ >= 9
    assert within >= 9


def test_profile_counts_heads():
    torch.manual_seed(4)
    scores = plant(LATE)
    a = subject("a", scores, len(LATE))
    found = profile(a)
    assert [layer.value for layer in found.heads] == [1, 1]
    assert all(has_interval(layer) for layer in found.importance)
    total = sum(GRAPH.n_heads * layer.value for layer in found.importance)
    assert total == pytest.approx(1, abs=1e-5)
    plain = profile(replace(a, record=None))
    assert [layer.value for layer in plain.heads] == [1, 1]
    assert not has_interval(plain.heads[0])

"""The smallest circuit that reaches a faithfulness: scanned from below, also in each resample."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest
import torch

from analysis.circuits.faithfulness import CircuitEvaluation
from analysis.circuits.smallest import BEYOND, FACTOR, SizeScan, scan_sizes, size_grid
from analysis.heads.resampling import Selection, resample_heads, resample_weights, sweep_sizes
from analysis.models.graph import Graph

PAIRS = 4
FULL, EMPTY = torch.zeros(PAIRS), torch.full((PAIRS,), 2.0)
WEIGHTS = resample_weights(range(PAIRS), 50, 0)


def keeping(curve: Callable[[int], float], spread: float = 0.0):
    """Evaluations of circuits with a faithfulness by size, and the sizes that were asked for."""
    asked: list[int] = []

    def evaluate(sizes: Sequence[int]) -> list[CircuitEvaluation]:
        asked.extend(sizes)
        off = spread * torch.linspace(-1, 1, PAIRS)
        return [CircuitEvaluation(EMPTY * (1 - curve(n) - off), FULL, EMPTY) for n in sizes]

    return evaluate, asked


@pytest.mark.parametrize("n_edges", [1, 2, 7, 1000])
def test_the_grid_rises_by_a_factor_from_one_edge_to_all(n_edges):
    sizes = size_grid(n_edges)
    assert (sizes[0], sizes[-1]) == (1, n_edges) and sizes == sorted(set(sizes))
    assert all(
        after <= max(before + 1, FACTOR * before + 0.5)
        for before, after in zip(sizes, sizes[1:], strict=False)
    )


def curve_with_a_dip(size: int) -> float:
    """As it was seen: 0.8 at 27 edges, 0.5 above them, 0.97 from 160 on."""
    return 0.85 if 24 <= size <= 30 else 0.97 if size >= 150 else min(0.7, size / 40)


def test_the_first_size_that_reaches_it_is_taken_where_the_curve_is_not_monotone():
    evaluate, asked = keeping(curve_with_a_dip)
    scan = scan_sizes(2000, 0.8, WEIGHTS, evaluate)
    found = scan.smallest(WEIGHTS, 0.8)
    assert found.tolist() == [24] * len(WEIGHTS)  # of all pairs alike, so of their resamples
    assert asked == size_grid(2000)[: len(asked)] and asked[-1] < 60


def test_resamples_find_sizes_of_their_own():
    evaluate, asked = keeping(lambda size: min(1.0, size / 100), spread=0.4)
    scan = scan_sizes(2000, 0.5, WEIGHTS, evaluate)
    found = scan.smallest(WEIGHTS, 0.5)
    means = WEIGHTS @ torch.linspace(-0.4, 0.4, PAIRS)
    for own, mean in zip(found.tolist(), means.tolist(), strict=True):
        wanted = next(n for n in size_grid(2000) if n / 100 + mean >= 0.5 - 1e-6)
        assert own == min(wanted, asked[-1])
    assert len(found.unique()) > 2
    assert asked[-1] <= BEYOND * FACTOR**6 * int(found[0])


def test_a_target_that_no_size_reaches_takes_all_edges_and_is_said(caplog):
    evaluate, _ = keeping(lambda size: 0.3)
    with caplog.at_level(logging.WARNING):
        scan = scan_sizes(50, 0.5, WEIGHTS, evaluate)
    assert scan.smallest(WEIGHTS, 0.5).tolist() == [50] * len(WEIGHTS)
    assert "no circuit reaches a faithfulness of 0.5" in caplog.text


def test_without_a_gap_no_size_reaches_anything():
    scan = SizeScan(torch.tensor([1, 2]), torch.zeros(2, PAIRS), FULL, FULL)
    assert not scan.reached(WEIGHTS, 0.5).any()


def test_each_row_is_cut_at_its_own_size():
    graph = Graph(2, 4, 2)
    scores = torch.randn(7, graph.n_edges, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([12, *[9, 12, 20] * 17])
    mixed = resample_heads(graph, scores, Selection(12), 51, 3, sizes=sizes)
    for size in (9, 12, 20):
        plain = resample_heads(graph, scores, Selection(size), 51, 3)
        rows = sizes == size
        for name, table in vars(mixed).items():
            assert torch.equal(table[rows], getattr(plain, name)[rows]), name
    assert mixed.sweep.shape == (52, len(sweep_sizes(graph, 12)))

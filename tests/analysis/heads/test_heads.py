"""Head states against planted truth: error rates, coverage, nulls; widest paths against pruning."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy import stats

from analysis.circuits.circuit import head_importance, head_mask, select_above, select_edges
from analysis.circuits.graph_contents import parallel_graph
from analysis.heads.calls import Evidence, level_of
from analysis.heads.changes import compare, jaccard, overlap
from analysis.heads.rates import Rates, measure_rates
from analysis.heads.resampling import (
    Selection,
    resample_heads,
    resample_weights,
    select,
    sweep_sizes,
)
from analysis.heads.widest_paths import (
    by_destination,
    edge_strengths,
    head_paths,
    head_strengths,
)
from analysis.intervals import association, discoveries, estimate_of_set
from analysis.models.graph import Graph
from tests.support.graphs import graph_without_heads, ragged_graph
from tests.support.planted import World, heads_of

GRAPHS = (
    *(Graph(3, 4, 2), Graph(2, 4, 4), Graph(3, 4, 2, "ungrouped"), Graph(1, 2, 1)),
    *(ragged_graph(), graph_without_heads(), parallel_graph(3, 4, 2, "grouped")),
)


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_entry_strengths_give_the_pruned_circuit_at_every_size(graph):
    """Selection by widest path equals top-n followed by iterated pruning."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, graph.n_edges, generator=generator)
    scores *= torch.rand(graph.n_edges, generator=generator) ** 3
    w = by_destination(graph, scores.abs())
    for size in range(1, graph.n_edges, max(1, graph.n_edges // 9)):
        circuits = select_edges(graph, scores, size)
        cut = scores.abs().topk(size, 1).values[:, -1]
        paths = head_paths(graph, w, w, cut)
        assert torch.equal(paths.strength >= cut[:, None], head_mask(graph, circuits))
        assert torch.equal(head_strengths(graph, w), paths.strength)
        inside = edge_strengths(graph, w) >= cut[:, None]
        assert torch.equal(inside, by_destination(graph, circuits))
        for row in range(0, 40, 13):
            wanted = head_importance(graph, scores[row : row + 1], circuits[row])
            assert torch.allclose(paths.importance[row], wanted, atol=1e-6)
            source = graph.edges[circuits[row], 0]
            degree = torch.bincount(source, minlength=graph.n_sources)[graph.head_sources]
            assert torch.equal(paths.out_degree[row].long(), degree)


def test_in_degree_counts_edges_into_query_key_and_value():
    graph = Graph(2, 4, 2)
    names = [graph.edge_name(edge) for edge in range(graph.n_edges)]
    wanted = (
        "input->a0.h0<q>",
        "a0.h0->a1.kv0<k>",
        "a1.h1->logits",
        "input->a1.h1<q>",
        "a1.h0->m1",
    )
    scores = torch.zeros(1, graph.n_edges)
    scores[0, [names.index(name) for name in wanted]] = 1.0
    w = by_destination(graph, scores)
    paths = head_paths(graph, w, w, torch.tensor([0.5]))
    found = dict(zip(graph.head_names, paths.in_degree[0].int().tolist(), strict=True))
    assert found["a0.h0"] == 1
    assert found["a1.h1"] == 2  # its query, and the key that it shares with a1.h0
    assert found["a1.h0"] == 0  # it writes to m1 only, which goes nowhere


def test_selection_with_tau_is_the_signed_threshold_within_the_top_n():
    graph = Graph(3, 4, 2)
    scores = torch.randn(6, graph.n_edges, generator=torch.Generator().manual_seed(1))
    for row in scores:
        inside = (row.abs() >= row.abs().topk(40).values[-1]) & (row >= 0.8)
        wanted = select_above(graph, torch.where(inside, row, 0.0), 0.8, signed=True)
        assert torch.equal(select(graph, row, Selection(40, 0.8)), wanted)
        r = resample_heads(graph, row[None].repeat(3, 1), Selection(40, 0.8), 5, 0)
        heads = (r.signed >= r.threshold[:, None]) & (r.signed > 0)
        assert torch.equal(heads[0], head_mask(graph, wanted))
        assert torch.equal(heads[0], heads[4])  # all pairs are equal, so all resamples are


def test_resampling_equals_selecting_each_resample_anew():
    graph = Graph(2, 4, 2)
    scores = torch.randn(7, graph.n_edges, generator=torch.Generator().manual_seed(0))
    r = resample_heads(graph, scores, Selection(12), 50, seed=3)
    weights = resample_weights(range(7), 50, seed=3)
    assert torch.equal(weights[0], torch.full((7,), 1 / 7))
    circuits = select_edges(graph, weights @ scores, 12)
    heads = (r.strength >= r.threshold[:, None]) & (r.strength > 0)
    assert torch.equal(heads, head_mask(graph, circuits))
    for column, size in enumerate(sweep_sizes(graph, 12)):
        other = head_mask(graph, select_edges(graph, weights @ scores, size))
        assert torch.equal((r.strength >= r.sweep[:, column : column + 1]), other)
    assert torch.equal(r.strength, resample_heads(graph, scores, Selection(12), 50, 3).strength)


WORLDS = 60
RESAMPLES = 200
OTHERS = [(32, 0.5), (64, 0.0)]


def up_to(rate: float, worlds: int) -> float:
    """A rate plus three Monte-Carlo standard errors."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / worlds)


def said(what: str, rates: Rates) -> str:
    coverage = ", ".join(f"{name} {rate}" for name, rate in rates.coverage.items())
    return (
        f"\n  {what}: runs with a false call {rates.any_false}, false-discovery rate "
        f"{rates.false_discovery}, power {rates.power}; coverage {coverage}, of E {rates.effect}"
    )


def check_coverage(rates: Rates) -> None:
    for coverage in rates.coverage.values():
        assert coverage.value >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / WORLDS)


@pytest.mark.parametrize("shared", [0.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_nothing_changed_nothing_called(shared, capsys):
    """Runs with a false call are at most q of all; the raw difference is hardly ever empty."""
    got = measure_rates(partial(World, shared=shared), "bb", 32, WORLDS, 0.05, RESAMPLES)
    with capsys.disabled():
        print(said(f"nothing changed, shared noise {shared}", got))
    assert got.any_false.value <= up_to(0.05, WORLDS)
    check_coverage(got)
    if shared == 0.0:
        assert got.raw.value > 0.5  # the control: without calls there would be findings


@pytest.mark.parametrize(
    ("n_pairs", "shared"), [(64, 0.5), *(pytest.param(*x, marks=pytest.mark.slow) for x in OTHERS)]
)
def test_planted_changes_are_called_at_the_promised_rate(n_pairs, shared, capsys):
    make = partial(World, changed=5, shared=shared)
    got = measure_rates(make, "bm", n_pairs, WORLDS, 0.05, RESAMPLES)
    with capsys.disabled():
        print(said(f"10 of 48 heads grown or shrunk, {n_pairs} pairs", got))
    assert got.false_discovery.value <= up_to(0.05, WORLDS)
    assert got.power.value > 0.4
    check_coverage(got)
    assert abs(got.effect.value - 0.95) <= 0.02 + 3 * got.effect.error


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("word", "changed"), [("bbbbbbbb", 0), ("bbbbmmmm", 5)])
def test_the_rate_is_one_of_the_whole_run(word, changed, shared, capsys):
    """Seven checkpoints: of runs without a change at most q have any false call at all."""
    make = partial(World, changed=changed, shared=shared)
    got = measure_rates(make, word, 32, WORLDS, 0.05, 100, times=4)
    with capsys.disabled():
        print(said(f"{word}, shared noise {shared}", got))
    assert got.false_discovery.value <= up_to(0.05, WORLDS)


def test_one_level_for_all_checkpoints_of_a_run():
    """A p-value that one checkpoint would call is not called among those of many, and back."""

    def evidence(*p: float) -> Evidence:
        return Evidence(torch.tensor(p, dtype=torch.float64), torch.ones(len(p)))

    lucky, nothing = evidence(0.02, 1.0), evidence(1.0, 1.0)
    assert lucky.called(level_of([lucky], 0.05)).tolist() == [True, False]
    assert not lucky.called(level_of([lucky, *[nothing] * 6], 0.05)).any()
    clear = evidence(1e-6, 1e-6)
    assert lucky.called(level_of([lucky, *[clear] * 6], 0.05))[0]  # many clear ones carry it
    assert level_of([lucky, *[clear] * 6], 0.05) == pytest.approx(0.05 * 13 / 14)
    assert level_of([nothing], 0.05) == 0.05 / 2  # another family may be held to it
    bare = evidence(math.nan, math.nan)
    assert level_of([lucky, bare], 0.05) == level_of([lucky], 0.05) == 0.05 / 2
    assert level_of([bare], 0.05) == level_of([], 0.05) < 0
    assert not bare.called(level_of([bare, clear], 0.05)).any()
    unstable = Evidence(clear.p_value, torch.tensor([0.84, 0.86]))
    assert unstable.called(0.01).tolist() == [False, True]


def test_a_clear_change_is_named_with_its_inclusion():
    world = World(8, changed=10, factor=100.0, noise=0.01)
    change = compare(*(heads_of(scores) for scores in world.scores(16)))
    before, after = (heads.inside[0] for heads in world.truth())
    assert (after & ~before).sum() >= 2
    assert torch.equal(change.called["emergent"], after & ~before)
    assert torch.equal(change.called["pruned"], before & ~after)
    assert (change.inclusion_after[change.called["emergent"]] > 0.8).all()
    assert (change.inclusion_before[change.called["emergent"]] < 0.2).all()
    assert (change.effect[change.called["emergent"]] > 0.99).all()
    assert change.counts["in_circuit"].value == after.sum()


def test_the_same_checkpoint_twice_is_no_change_at_all():
    heads = heads_of(World(0).scores(16)[0])
    change = compare(heads, heads)
    assert (change.jaccard.value, change.turnover.value) == (1, 0)
    assert change.counts["emergent"].value == change.counts["emergent"].low == 0
    assert change.p_value.min() == 1
    assert change.null_turnover > 0  # resampling by itself moves heads,
    assert change.excess_turnover.value == -change.null_turnover  # so 0 lies below what it gives
    assert change.overlap.value == pytest.approx(1)
    assert change.rank_correlation.value == pytest.approx(1)


def test_null_turnover_is_what_independent_resamples_give():
    scores = World(5, noise=1.5).scores(16)[0]
    heads, one, other = (heads_of(scores, 600, seed) for seed in range(3))
    mine = compare(heads, heads).null_turnover
    independent = float((1 - jaccard(one.inside[1:], other.inside[1:])).mean())
    assert mine == pytest.approx(independent, rel=0.1)


def test_incomparable_tables_are_refused():
    scores = World(0).scores(8)[0]
    with pytest.raises(ValueError, match="can't be compared; track both with the same settings"):
        compare(heads_of(scores, 10), heads_of(scores, 11))


def test_small_formulas():
    a = torch.tensor([True, True, False, False])
    b = torch.tensor([False, True, True, False])
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a & ~a, a & ~a) == 1
    assert overlap(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])) == pytest.approx(0.5 / 1.5)
    assert overlap(torch.zeros(2), torch.zeros(2)) == 1 and overlap(torch.zeros(1), a[:1]) == 0
    assert discoveries(torch.tensor([0.01, 0.02, 0.03, 0.5]), 0.05).tolist() == [True] * 3 + [False]
    hull = estimate_of_set(torch.tensor([2.0, 3.0, 4.0, 5.0]), 0, 10)
    assert hull.low == 0  # mirrored below 2
    assert hull.high == pytest.approx(4.95)


def test_association_of_a_trend_is_judged_by_its_shifts():
    rising = [float(x) for x in range(12)]
    got = association(rising, [x**2 for x in rising])
    assert got.rho.value == pytest.approx(1)
    assert got.p_value == pytest.approx(1 / 12)  # only the shift by nothing reaches it
    y = [math.sin(3 * x) for x in rising]
    got = association(rising, y)
    assert got.rho.value == pytest.approx(stats.spearmanr(rising, y).statistic)
    shifts = [abs(stats.spearmanr(rising, y[i:] + y[:i]).statistic) for i in range(12)]
    assert got.p_value == pytest.approx(sum(s >= shifts[0] - 1e-9 for s in shifts) / 12)
    assert got.rho.low <= got.rho.value <= got.rho.high
    assert math.isnan(association([1, 2, 3], [1, 2, 3]).p_value)
    assert math.isnan(association([1.0] * 8, rising[:8]).rho.value)


def test_association_finds_nothing_between_unrelated_walks():
    """Random walks correlate by themselves; the shifts keep that, so p is not small too often."""
    generator = torch.Generator().manual_seed(0)
    small = 0
    for _ in range(60):
        x, y = torch.randn(2, 24, generator=generator).cumsum(1).tolist()
        small += association(x, y, resamples=50).p_value <= 0.05
    assert small / 60 <= up_to(0.12, 60)  # a trend's ends do not meet, so shifts are not exact

"""Head states against planted truth: error rates, coverage, nulls; widest paths against pruning."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats

from analysis.circuits.circuit import head_importance, head_mask, select_above, select_edges
from analysis.circuits.graph_contents import parallel_graph
from analysis.heads.changes import compare, effect, jaccard, overlap
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
    assert found["a1.h0"] == 0  # it writes to m1 alone, which goes nowhere


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


def experiment(changed: int, n_pairs: int, shared: float) -> dict[str, Any]:
    """Error rates of the calls and coverage of the intervals over many worlds.

    coverage_of_effect: of E of the heads in both true circuits, and its standard error.
    """
    false, calls, found, planted, any_false, raw_false = 0.0, 0, 0, 0, 0, 0
    covered: dict[str, list[bool]] = {}
    effects = []
    for seed in range(WORLDS):
        world = World(seed, changed, shared=shared)
        true = world.truth()
        before, after = (heads.inside[0] for heads in true)
        scores = world.scores(n_pairs)
        change = compare(*(heads_of(part, RESAMPLES) for part in scores), 0.05)
        really = before != after
        called = change.called["emergent"] | change.called["pruned"]
        wrong = int((called & ~really).sum())
        false += wrong / max(1, int(called.sum()))
        any_false += wrong > 0
        raw = change.masks["emergent"] | change.masks["pruned"]
        raw_false += int((raw & ~really).sum()) > 0
        calls += int(called.sum())
        found += int((called & really).sum())
        planted += int(really.sum())
        true_counts = {
            "in_circuit": after.sum(),
            "emergent": (after & ~before).sum(),
            "retained": (after & before).sum(),
            "pruned": (before & ~after).sum(),
            "jaccard": jaccard(before, after),
        }
        for name, value in true_counts.items():
            interval = change.jaccard if name == "jaccard" else change.counts[name]
            inside = interval.low - 1e-9 <= float(value) <= interval.high + 1e-9
            covered.setdefault(name, []).append(inside)
        wanted = effect(true[0].importance[0], true[1].importance[0])
        held = (change.effect_low <= wanted) & (wanted <= change.effect_high)
        effects.append(held[before & after].double().mean())
    rates = torch.stack(effects)
    return {
        "fdr": false / WORLDS,
        "any_false": any_false / WORLDS,
        "raw_any_false": raw_false / WORLDS,
        "power": found / max(1, planted),
        "calls": calls / WORLDS,
        "coverage": {name: sum(hits) / WORLDS for name, hits in covered.items()},
        "coverage_of_effect": (float(rates.mean()), float(rates.std()) / math.sqrt(WORLDS)),
    }


def up_to(rate: float, worlds: int) -> float:
    """A rate plus three Monte-Carlo standard errors."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / worlds)


@pytest.mark.parametrize("shared", [0.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_nothing_changed_nothing_called(shared, capsys):
    """Runs with a false call are at most q of all; the raw difference is hardly ever empty."""
    got = experiment(changed=0, n_pairs=32, shared=shared)
    with capsys.disabled():
        print(
            f"\n  nothing changed, shared noise {shared}: runs with a call {got['any_false']:.3f}, "
            f"with a raw difference {got['raw_any_false']:.2f}; coverage {got['coverage']}"
        )
    assert got["any_false"] <= up_to(0.05, WORLDS)
    for coverage in got["coverage"].values():
        assert coverage >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / WORLDS)
    if shared == 0.0:
        assert got["raw_any_false"] > 0.5  # the control: without calls there would be findings


@pytest.mark.parametrize(
    ("n_pairs", "shared"), [(64, 0.5), *(pytest.param(*x, marks=pytest.mark.slow) for x in OTHERS)]
)
def test_planted_changes_are_called_at_the_promised_rate(n_pairs, shared, capsys):
    got = experiment(changed=5, n_pairs=n_pairs, shared=shared)
    of_effect, error = got["coverage_of_effect"]
    with capsys.disabled():
        print(
            f"\n  10 of 48 heads grown or shrunk, {n_pairs} pairs: false-discovery rate "
            f"{got['fdr']:.3f}, power {got['power']:.2f}; coverage {got['coverage']}, "
            f"of E {of_effect:.3f} (standard error {error:.3f})"
        )
    assert got["fdr"] <= up_to(0.05, WORLDS)
    assert got["power"] > 0.4
    for coverage in got["coverage"].values():
        assert coverage >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / WORLDS)
    assert abs(of_effect - 0.95) <= 0.02 + 3 * error


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
    assert change.null_turnover > 0  # resampling alone moves heads,
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

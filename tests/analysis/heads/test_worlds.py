"""Worlds drawn from given scores, and the benchmark that counts false calls in them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from analysis.attribution.eap import attribute
from analysis.commands.bench_worlds import measure_worlds, worlds_of
from analysis.heads.rates import Rate, measure_rates
from analysis.heads.resampling import Selection
from analysis.heads.worlds import Resampled
from analysis.models.graph import Graph
from analysis.prompts.pairs import Pair, Pairs, encode
from analysis.records.record_files import write_record
from tests.support import comparisons
from tests.support.known_circuit import PROBLEMS, build_copier
from tests.support.planted import World, make_record
from train.recipes.tiny import build_tokenizer

SMALL = Graph(2, 4, 2)


def rows(n: int, graph: Graph = SMALL) -> torch.Tensor:
    return torch.randn(n, graph.n_edges, generator=torch.Generator().manual_seed(0)).exp()


def test_a_resampled_world_draws_rows_and_scales_the_blocks_of_the_heads_that_change():
    population = rows(12)
    world = Resampled(3, SMALL, population, Selection(20), changed=1, factor=9.0, shared=1.0)
    before, after = world.scores(40)
    assert all((row == population).all(1).any() for row in before)
    names = [SMALL.edge_name(edge) for edge in range(SMALL.n_edges)]
    grown, shrunk = (SMALL.head_names[int(heads[0])] for heads in (world.grown, world.shrunk))
    growth = after / before
    assert torch.allclose(growth, growth[:1].expand_as(growth), rtol=1e-4)  # all noise is shared
    for edge, ratio in zip(names, growth[0].tolist(), strict=True):
        source, into = edge.split("->")
        wanted = 9.0 ** ((source == grown) - (source == shrunk))
        if into in (f"{head}<q>" for head in (grown, shrunk)):
            wanted *= 9.0 if into.startswith(grown) else 1 / 9
        if "kv" not in into:  # shared with another head, which may change as well
            assert ratio == pytest.approx(wanted, rel=1e-3), edge
    assert torch.allclose(world.before, population.mean(0))
    assert torch.allclose(world.after, world.before * growth[0], rtol=1e-4)
    assert len(world.further(5)) == 5


def test_noise_is_shared_in_the_part_that_is_asked_for():
    population = rows(500)
    for shared in (0.0, 0.5):
        world = Resampled(0, SMALL, population, Selection(20), shared=shared)
        one, other = world.scores(4000)
        same = (one == other).all(1).double().mean()
        assert same == pytest.approx(shared, abs=0.04)


def test_rates_are_means_over_worlds_with_their_errors():
    assert str(Rate.of([0.0, 1.0, 0.0, 1.0])) == "0.500 (0.289)"
    sure = measure_rates(
        partial(World, changed=10, factor=100.0, noise=0.01), "bbm", 8, 2, 0.05, 20
    )
    assert (sure.any_false.value, sure.false_discovery.value, sure.calls.value > 5) == (0, 0, True)
    assert sure.power.value > 0.9
    still = measure_rates(partial(World, noise=0.01, shared=1.0), "bb", 8, 2, 0.05, 20)
    assert (still.any_false.value, still.raw.value) == (0, 0)
    assert math.isnan(still.power.value)  # of nothing that changed


def test_the_benchmark_takes_the_scores_of_a_record(tmp_path: Path, capsys, monkeypatch):
    from analysis.commands import bench_worlds

    monkeypatch.setattr(bench_worlds, "SHARED", (0.5,))
    monkeypatch.setattr(bench_worlds, "CHECKPOINTS", 1)
    scores = World(0).scores(6)[0]
    write_record(tmp_path / "r", make_record(0, scores, 20), scores)
    measure_worlds(2, 4, f"{tmp_path / 'r'}@0", 2)
    printed = capsys.readouterr().out
    assert "2 worlds, drawn from" in printed and "runs with a false call 0." in printed
    for wrong, message in (
        ("r", "must be RUN@STEP"),
        (f"{tmp_path}@3", "no valid record of step 3"),
    ):
        with pytest.raises(ValueError, match=message):
            worlds_of(wrong, True, 0.5)
    one = replace(make_record(0, scores, 20), groups=[0] * len(scores))
    write_record(tmp_path / "one", one, scores)
    with pytest.raises(ValueError, match="has one distinct pair, and so no noise to draw from"):
        worlds_of(f"{tmp_path / 'one'}@0", True, 0.5)


def test_some_head_changes_in_a_small_model(tmp_path: Path):
    scores = torch.rand(4, comparisons.GRAPH.n_edges)
    write_record(tmp_path, comparisons.make_record(0, scores, 5), scores)
    assert len(worlds_of(f"{tmp_path}@0", True, 0.5)(0).grown) == 1  # of 8 heads


@pytest.mark.slow
@pytest.mark.parametrize("word", ["bbbbbbbb", "bbbbmmmm"])
def test_the_rate_holds_on_the_scores_of_a_real_model(word, capsys):
    tokenizer, model = build_tokenizer(), build_copier()
    ids = [encode(tokenizer, problem.question + "<answer>") for problem in PROBLEMS]
    pairs = Pairs([Pair(one, two) for one, two in zip(ids, ids[1:] + ids[:1], strict=True)])
    scores = attribute(model, pairs)
    changed = 2 if "m" in word else 0
    selection = Selection(scores.graph.n_edges // 5)
    per_pair = scores.per_edge

    def make(seed: int) -> Resampled:
        return Resampled(seed, scores.graph, per_pair, selection, changed, shared=0.5)

    got = measure_rates(make, word, 32, 60, 0.05, 100)
    with capsys.disabled():
        print(
            f"\n  copier, {word}: false {got.any_false}, {got.false_discovery}, power {got.power}"
        )
    assert got.false_discovery.value <= 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5

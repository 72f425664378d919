"""Cross-fitted circuits, and models that do not show the behaviour."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from analysis.circuits.circuit import Circuit
from analysis.circuits.faithfulness import answer_gap, evaluate_circuit
from analysis.circuits.halves import halves
from analysis.heads.resampling import Selection, resample_weights, select
from analysis.prompts.pairs import Pair, Pairs
from analysis.records.record import mean_gap
from analysis.records.record_files import read_record, read_scores
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from analysis.trajectories.trajectory import trajectory
from tests.support.models import random_pairs, tiny_model

SETTINGS = TrackingSettings(fraction=0.2, resamples=20, ig_steps=2)


def record_of(run, model, pairs, step=0, **changes):
    settings = replace(SETTINGS, **changes)
    HeadTracker(run, pairs, settings).track(model, step, show_progress=False)
    return read_record(run, step)


def test_each_pair_is_measured_under_a_circuit_that_the_other_half_ranked(tmp_path):
    model, pairs = tiny_model("llama", torch.float32), random_pairs(5, answers=False)
    record = record_of(tmp_path, model, pairs)
    per_edge = read_scores(tmp_path, 0)
    half = torch.tensor(halves(pairs.groups, 0))
    own = evaluate_circuit(model, pairs, Circuit(record.graph, record.circuit))
    torch.testing.assert_close(record.evaluation[0], own.circuit)
    for which in (0, 1):
        ranking = per_edge[half != which].mean(0)
        circuit = Circuit(
            record.graph, select(record.graph, ranking, Selection(**record.selection))
        )
        found = evaluate_circuit(model, pairs, circuit)
        rows = half == which
        torch.testing.assert_close(record.held_out[rows], found.circuit[rows])
    kept = (record.held_out - own.empty).mean() / (own.full - own.empty).mean()
    assert record.faithfulness().value == pytest.approx(float(kept), abs=1e-5)
    assert record.faithfulness(held_out=False).value == pytest.approx(own.faithfulness, abs=1e-5)


def flipped(pairs: Pairs) -> Pairs:
    """Pairs whose clean prompt speaks for the foil."""
    return Pairs([replace(pair, target_id=pair.foil_id, foil_id=pair.target_id) for pair in pairs])


def with_answers(model, pairs: Pairs, size: int = 50) -> Pairs:
    """The same pairs whose target is what the clean prompt raises most, and foil what it lowers."""
    found = []
    for pair in pairs:
        with torch.no_grad():
            both = [
                model(torch.tensor([ids])).logits[0, -1]
                for ids in (pair.clean_ids, pair.corrupted_ids)
            ]
        change = (both[0] - both[1])[:size]
        found.append(
            Pair(pair.clean_ids, pair.corrupted_ids, int(change.argmax()), int(change.argmin()))
        )
    return Pairs(found)


def test_a_model_without_the_behaviour_has_no_circuit_and_heads_are_held_against_none(tmp_path):
    model = tiny_model("llama", torch.float32)
    pairs = with_answers(model, random_pairs(8))
    gap = answer_gap(model, pairs)
    assert (gap > 0).all()
    shown = record_of(tmp_path / "shown", model, pairs, 4)
    assert (shown.gap_metric, shown.lacks_behaviour) == ("logit_diff", False)
    torch.testing.assert_close(shown.gap, gap)
    assert shown.n_edges and shown.in_circuit.any()

    lacking = record_of(tmp_path / "lacking", model, flipped(pairs))
    assert lacking.metric_gap().value == pytest.approx(-float(gap.mean()), rel=1e-4)
    assert lacking.n_edges == 0 and not lacking.in_circuit.any() and not lacking.importance.any()
    assert lacking.faithfulness().value == shown.faithfulness().value  # it is still told

    same = {"pairs_hash": shown.pairs_hash}
    base = replace_in(lacking, **same)
    points = trajectory([base, shown])
    assert points[1].counts["emergent"].value == int(shown.in_circuit.sum())
    assert not points[1].masks["retained"].any()
    margin = base.heads.margin(torch.arange(3))
    assert not margin.any()
    for setting in points[0].sensitivity:
        assert setting.counts["in_circuit"].value == 0


def replace_in(record, **changes):
    vars(record).update(changes)
    return record


def test_what_tells_the_behaviour(tmp_path):
    model = tiny_model("llama", torch.float32)
    plain = record_of(tmp_path / "kl", model, random_pairs(4, answers=False))
    assert plain.gap_metric is None and not plain.lacks_behaviour
    assert plain.metric_gap().value == pytest.approx(plain.metric_corrupted, rel=1e-4)
    own = record_of(tmp_path / "ld", model, random_pairs(4), metric="logit_diff")
    assert own.gap_metric == "logit_diff" and own.gap is None
    assert own.metric_gap().value == pytest.approx(
        own.metric_corrupted - own.metric_clean, abs=1e-4
    )


def test_a_gap_that_few_pairs_have_has_an_interval_from_two_clusters_on():
    nothing, groups = torch.nan, [0, 1, 2, 0]
    weights = resample_weights(groups, 300, 0)
    gap = mean_gap(torch.tensor([1.0, nothing, 2.0, nothing]), weights, groups)
    assert (gap.value, gap.low, gap.high) == (1.5, 1, 2)
    for of_one in ([1.0, nothing, nothing, nothing], [1.0, nothing, nothing, 2.0]):
        gap = mean_gap(torch.tensor(of_one), weights, groups)
        assert gap.value >= 1 and math.isnan(gap.low) and math.isnan(gap.high)


def test_pairs_whose_answers_begin_alike_tell_nothing_of_the_gap():
    model = tiny_model("llama", torch.float32)
    one, two, three = with_answers(model, random_pairs(3))
    pairs = Pairs([one, replace(two, foil_id=two.target_id), three])
    assert answer_gap(model, pairs).isnan().tolist() == [False, True, False]

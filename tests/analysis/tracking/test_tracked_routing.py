"""The routing of a mixture of experts is a setting of tracking, and is followed by it."""

from __future__ import annotations

import pytest

from analysis import HeadTracker, TrackingSettings, attribute
from analysis.commands.measuring import AttributionOptions, Options, experts_of
from analysis.records.record_files import is_recorded, read_record
from tests.support.experts import tiny_mixture
from tests.support.models import random_pairs, tiny_model

FEW = {"ig_steps": 2, "resamples": 20, "metric": "logit_diff", "top_n": 20, "fraction": None}


def test_a_free_routing_is_not_said_in_records_and_a_frozen_one_is():
    free, frozen = (TrackingSettings(routing=how).of_record() for how in ("free", "frozen"))
    assert TrackingSettings().of_record() == free and "routing" not in free
    assert frozen == {**free, "routing": "frozen"}
    with pytest.raises(ValueError, match="unknown routing 'held'"):
        TrackingSettings(routing="held")


def test_a_record_of_a_mixture_has_its_routing(tmp_path):
    pairs, model = random_pairs(3), tiny_mixture("a dense layer")
    tracker = HeadTracker(tmp_path, pairs, TrackingSettings(**FEW, routing="frozen"))
    made = tracker.track(model, 0)
    read = read_record(tmp_path, 0)
    assert read.settings["routing"] == "frozen"
    assert list(read.experts.layers) == [1]
    assert read.experts.lengths.tolist() == [6, 4, 5]
    assert read.experts.chosen(1).equal(made.experts.chosen(1))
    # frozen where it is scored, free where the circuit is evaluated
    scored, free = (
        read.metric_corrupted - read.metric_clean,
        read.evaluation[2] - read.evaluation[1],
    )
    assert scored != pytest.approx(float(free.mean()), abs=1e-6)
    next(tmp_path.glob("heads/step-*/experts-*")).unlink()
    assert not is_recorded(tmp_path, 0)  # and is made again


def test_the_command_says_both_gaps_of_a_mixture_only():
    pairs = random_pairs(3)
    options = Options(attribution=AttributionOptions(metric="logit_diff", ig_steps=2))
    model = tiny_mixture("one expert a token")
    scores = _scores(model, pairs)
    found = experts_of(options, model, pairs, scores)
    assert found["layers"] == [0, 1] and found["routing"] == "free"
    gaps = found["completeness_gap"]
    assert gaps["free"] == scores.completeness_gap != gaps["frozen"]
    dense = tiny_model("llama")
    assert experts_of(options, dense, pairs, _scores(dense, pairs)) == {}


def _scores(model, pairs):
    return attribute(model, pairs, metric="logit_diff", ig_steps=2)

"""What attribution will need is told from a few of the pairs."""

from __future__ import annotations

import pytest
import torch

from analysis.attribution import forecast as of_attribution
from analysis.attribution.eap import attribute
from analysis.attribution.forecast import batches_within, forecast, some_of, tokens_in
from analysis.reporting.forecast_words import in_words
from tests.support.models import random_pairs, tiny_model

PAIRS = random_pairs(12, (4, 5, 6, 9))
HOW = {"metric": "logit_diff", "ig_steps": 2, "batch_size": 6}
MIB = 2**20


@pytest.fixture
def as_if(monkeypatch):
    """As if each measurement had taken 30 s, and what is known to be kept one and a half times."""
    tried = []

    def measured(act, device):
        found = act()
        tried.append(len(found.per_pair))
        return found, 30.0, 100 * MIB, 100 * MIB + 150

    need = of_attribution.need

    def known(*given, **more):
        found = need(*given, **more)
        size = given[2] * given[3]  # tokens of a batch
        nothing = dict.fromkeys(("differences", "sums", "steps", "block", "points", "logits"), 0)
        return type(found)(weights=0, **nothing, passes=100 * size // 36)

    monkeypatch.setattr(of_attribution, "measured", measured)
    monkeypatch.setattr(of_attribution, "_status", lambda name: 0)
    monkeypatch.setattr(of_attribution, "need", known)
    return tried


def test_a_few_pairs_are_tried_and_scaled_to_all(as_if):
    model = tiny_model("llama", torch.float32)
    found, scores = forecast(model, PAIRS, **HOW)
    assert as_if == [4] and len(scores.per_pair) == 4 and found.tried == 4
    times = tokens_in(PAIRS, 6) / tokens_in(some_of(PAIRS, 4), 6)
    assert found.seconds == pytest.approx(30 * times)
    all_scores = 2 * 12 * scores.per_pair[0].numel() * 4
    # 4 pairs of 9 tokens took 150 bytes; a batch of all has 6
    assert found.peak - found.now - all_scores == pytest.approx(225, abs=2)
    assert found.points == (2.0, 2, 2) and found.fits and not found.recompute


def test_of_a_small_model_whole_batches_are_tried():
    assert batches_within(15, PAIRS, 5, 0.1) == 12  # all of them
    assert batches_within(15, PAIRS, 5, 15 / 60) == 5
    assert batches_within(15, PAIRS, 5, 1.0) == 0


@pytest.mark.parametrize("steps", [3, "auto"])
def test_the_points_of_a_method_are_those_that_it_takes(steps):
    model, how = tiny_model("llama"), {"ig_steps": steps, "quadrature": "midpoint"}
    for method, taken in (("EAP", 1), ("GIM", 1), ("clean-corrupted", 2), ("EAP-IG-inputs", steps)):
        points = attribute(model, PAIRS, method, "logit_diff", **how).points
        assert points.min() >= 6 if taken == "auto" else points.eq(taken).all()


def test_pairs_that_are_tried_are_of_all_lengths():
    lengths = [len(pair.clean_ids) for pair in some_of(PAIRS, 4)]
    assert lengths == [4, 5, 6, 9]
    assert len(some_of(PAIRS, 50)) == 12


def test_it_is_told_in_words_with_what_to_do_where_it_does_not_fit(as_if, monkeypatch):
    monkeypatch.setattr(of_attribution, "free_memory", lambda device: 100)
    model = tiny_model("llama", torch.float32)
    found, _ = forecast(model, PAIRS, recompute=False, **HOW)
    lines = in_words(found, 12)
    assert lines[0] == "Tried on 4 of 12 pairs, with 2 points of the path a pair."
    assert "That does not fit; give recompute=true." in lines
    assert lines[-1].startswith("Time: ")
    auto = {"metric": "logit_diff", "ig_steps": "auto", "quadrature": "midpoint"}
    one, _ = forecast(model, PAIRS, method="GIM", **auto)
    assert one.points == (1.0, 1, 1) and "with 1 point of the path" in in_words(one, 12)[0]
    with pytest.raises(ValueError, match="plan: what method=exact needs is not predicted"):
        forecast(model, PAIRS, method="exact")

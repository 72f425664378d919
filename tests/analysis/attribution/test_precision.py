"""The top edges of a model in narrow floats against the same in float32."""

from __future__ import annotations

import inspect
import logging

import pytest
import torch

from analysis import Pairs, attribute
from analysis.attribution.precision import check_dtype, compared, in_float32
from analysis.tracking import tracker as of_tracker
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from tests.support.models import random_pairs, tiny_model

HOW = {"metric": "logit_diff", "ig_steps": 2}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_narrow_floats_are_held_against_float32(kind, caplog):
    """The float32 run is that of the same weights; qwen3's two ends stay one."""
    model, pairs = tiny_model("qwen3", torch.float32).to(kind), random_pairs(6)
    before = [(name, p, p.clone()) for name, p in model.named_parameters()]
    scores = attribute(model, pairs, **HOW)
    with caplog.at_level(logging.INFO):
        found = check_dtype(model, pairs, scores, **HOW)
    wide = attribute(tiny_model("qwen3", torch.float32).to(kind).float(), Pairs(pairs[:4]), **HOW)
    name = str(kind).removeprefix("torch.")
    assert found == compared(name, scores.per_edge[:4].mean(0), wide.per_edge.mean(0), 4)
    assert (found.pairs, found.edges) == (4, min(100, scores.graph.n_edges))
    assert 0.8 < found.overlap <= 1 and 0.9 < found.rank <= 1 and found.error > 0
    assert f"check_dtype: {name} against float32, top" in caplog.text
    for (name, parameter, copy), (again, now) in zip(before, model.named_parameters(), strict=True):
        assert name == again and parameter is now and torch.equal(copy, now)
    with in_float32(model):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.dtype == torch.float32


def test_agreement_is_of_the_edges_that_are_highest_in_float32():
    wide = torch.tensor([4.0, -3.0, 2.0, 1.0])
    same = compared("bfloat16", wide * 1.5, wide, 1)
    assert (same.overlap, same.rank, same.error) == (1.0, 1.0, 0.5)
    other = compared("bfloat16", torch.tensor([0.0, -3.0, 2.0, 1.0]), wide, 1)
    assert other.error == 1.0 and other.rank == pytest.approx(0.4)


def test_what_is_not_checked_says_so(caplog):
    model, pairs = tiny_model("qwen2", torch.float32), random_pairs()
    with caplog.at_level(logging.INFO):
        assert check_dtype(model, pairs, attribute(model, pairs, **HOW), **HOW) is None
    assert "check_dtype: the model is in float32 or wider already" in caplog.text


def test_a_tracker_checks_once_and_keeps_it_with_the_record(tmp_path):
    settings = TrackingSettings(metric="logit_diff", ig_steps=2, resamples=2, check_dtype=True)
    assert "check_dtype" not in settings.of_record()
    model = tiny_model("qwen2", torch.float32).to(torch.bfloat16)
    tracker = HeadTracker(tmp_path, random_pairs(), settings)
    first, second = (tracker.track(model, step, show_progress=False) for step in (0, 1))
    assert first.origin["precision"]["dtype"] == "bfloat16"
    assert "precision" not in second.origin


def test_a_tracker_checks_with_the_settings_of_its_scores(tmp_path, monkeypatch):
    settings = TrackingSettings(
        metric="logit_diff", check_dtype=True, routing="frozen", resamples=2
    )
    given = []
    monkeypatch.setattr(of_tracker, "check_dtype", lambda *_, **how: given.append(how))
    model = tiny_model("qwen2", torch.float32).to(torch.bfloat16)
    HeadTracker(tmp_path, random_pairs(), settings).track(model, 0, show_progress=False)
    takes = set(inspect.signature(attribute).parameters)
    assert given == [{k: v for k, v in vars(settings).items() if k in takes}]

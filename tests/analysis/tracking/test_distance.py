"""KL from the base: exact, pair by pair, where the metric is read."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from analysis import Pair, Pairs
from analysis.records.record_files import read_log_probs, read_record, record_dir
from analysis.tracking import distance
from analysis.tracking.distance import kl_from, positions_read, thinned
from analysis.tracking.tracker import HeadTracker
from tests.support.models import tiny_model
from tests.support.tracked import SETTINGS

PAIRS = Pairs(
    [
        Pair((3, 9, 14, 20, 7), (3, 9, 15, 20, 7)),
        Pair((4, 11, 8), (5, 11, 8), positions=(2, 0)),
        Pair((6, 13, 40, 2), (6, 13, 41, 2), positions=(-3, -2, -1)),
    ]
)


def oracle(now: torch.nn.Module, base: torch.nn.Module) -> torch.Tensor:
    """KL(now || base) by the definition, one prompt and one position at a time."""
    found = []
    for pair in PAIRS:
        ids = torch.tensor([pair.clean_ids])
        p, q = (model(input_ids=ids).logits[0].detach().softmax(-1) for model in (now, base))
        each = [float((p[t] * (p[t] / q[t]).log()).sum()) for t in pair.read_at]
        found.append(sum(each) / len(each))
    return torch.tensor(found)


def test_kl_is_that_of_the_definition_and_the_base_is_stored_once(tmp_path, caplog) -> None:
    base, later = tiny_model("qwen2"), tiny_model("qwen2", seed=1)
    tracker = HeadTracker(tmp_path, PAIRS, SETTINGS)
    for step, model in ((0, base), (5, later)):
        tracker.track(model, step, show_progress=False)
    first, last = read_record(tmp_path, 0), read_record(tmp_path, 5)
    assert first is not None and last is not None
    assert first.kl is not None and last.kl is not None
    assert first.kl.tolist() == [0, 0, 0]
    torch.testing.assert_close(last.kl, oracle(later, base), rtol=1e-4, atol=1e-6)
    kl = last.kl_from_base()
    assert kl is not None
    assert kl.value == pytest.approx(float(last.kl.mean()))
    assert float(last.kl.min()) <= kl.low < kl.value < kl.high <= float(last.kl.max())
    assert len(list(record_dir(tmp_path, 0).glob("logprobs-*"))) == 1
    assert not list(record_dir(tmp_path, 5).glob("logprobs-*"))
    stored = read_log_probs(tmp_path)
    assert stored is not None and stored.shape == (6, 50)
    # a base of a version that kept none
    with caplog.at_level(logging.WARNING):
        other = HeadTracker(tmp_path / "other", PAIRS, SETTINGS)
        record = other.track(later, 5, show_progress=False)
    assert record is not None and record.kl is None and record.kl_from_base() is None
    assert "has no KL from the base: the record of step 0 holds no" in caplog.text


def test_long_answers_are_read_at_fewer_positions_evenly_spread(monkeypatch) -> None:
    long = Pair(tuple(range(3, 13)), tuple(range(4, 14)), positions=tuple(range(10)))
    assert thinned(long, 10).positions == tuple(range(10))
    assert thinned(long, 3).positions == (3, 6, 9)
    assert thinned(long, 1).positions == (9,)
    pairs = Pairs([long] * 4)
    assert positions_read(pairs, 50) == 10
    monkeypatch.setattr(distance, "MOST", 4 * 50 * 4 * 3)
    assert positions_read(pairs, 50) == 3
    assert positions_read(pairs, 5000) == 1  # at one at least


def test_tokens_that_can_not_come_are_no_nan() -> None:
    """Logits of -inf, as of a padded vocabulary."""
    half = torch.tensor([[0.5, 0.5, 0.0]]).log()
    some = torch.tensor([[0.5, 0.25, 0.25]]).log()
    one = torch.tensor([1])
    assert kl_from(half, half, one).tolist() == [0]
    assert float(kl_from(some, half, one)) == pytest.approx(math.log(2) / 2)
    assert kl_from(half, some, one).tolist() == [torch.inf]

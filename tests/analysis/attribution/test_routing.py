"""Attribution with the routing of a mixture of experts free or frozen."""

from __future__ import annotations

import pytest
import torch

from analysis import Pair, Pairs, attribute
from analysis.attribution import eap
from analysis.attribution.completeness import completeness_gap
from tests.support.experts import tiny_mixture
from tests.support.models import random_pairs, tiny_model

PATH = ("EAP-IG-inputs", "logit_diff", 16, "gauss-legendre")


def one_word(pairs: Pairs) -> Pairs:
    """Pairs whose prompts differ in one token only."""

    def changed(pair: Pair) -> Pair:
        ids = (*pair.clean_ids[:1], pair.corrupted_ids[1], *pair.clean_ids[2:])
        return Pair(pair.clean_ids, ids, pair.target_id, pair.foil_id)

    return Pairs([changed(pair) for pair in pairs])


@pytest.fixture(scope="module")
def model():
    return tiny_mixture("plain", seed=3)


PAIRS = one_word(random_pairs(3))


def test_frozen_scores_add_up_and_free_ones_do_not(model):
    frozen, free = (attribute(model, PAIRS, *PATH, routing=how) for how in ("frozen", "free"))
    assert frozen.completeness_gap < 1e-3 and free.completeness_gap > 0.05
    assert torch.equal(frozen.metric_clean, free.metric_clean)
    assert not torch.allclose(frozen.metric_corrupted, free.metric_corrupted)
    for scores, how in ((frozen, "frozen"), (free, "free")):
        alone = completeness_gap(model, PAIRS, *PATH[1:], batch_size=2, routing=how)
        assert alone == pytest.approx(scores.completeness_gap, rel=1e-4)


def test_frozen_scores_do_not_depend_on_padding(model):
    each = [
        attribute(model, PAIRS, *PATH[:2], 4, "midpoint", batch_size=size, routing="frozen")
        for size in (1, 3)
    ]
    assert torch.allclose(each[0].per_pair, each[1].per_pair, rtol=0, atol=1e-5)


def test_single_edges_are_patched_with_the_routing_frozen_too(model):
    pairs = Pairs([PAIRS[1]])  # many copies of it at once
    frozen, free = (
        attribute(model, pairs, "exact", "logit_diff", routing=how) for how in ("frozen", "free")
    )
    assert frozen.per_pair.isfinite().all()
    assert not torch.allclose(free.per_pair, frozen.per_pair, atol=1e-3)


def test_without_experts_nothing_is_frozen(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(eap.log, "info", lambda text, *_: said.append(text))
    model = tiny_model("qwen3")
    free, frozen = (attribute(model, PAIRS, ig_steps=2, routing=how) for how in ("free", "frozen"))
    assert torch.equal(free.per_pair, frozen.per_pair)
    assert len([text for text in said if "nothing to freeze" in text]) == 1


def test_an_unknown_routing_is_one_line(model):
    with pytest.raises(ValueError, match="unknown routing 'fixed'; known: free, frozen"):
        attribute(model, PAIRS, routing="fixed")

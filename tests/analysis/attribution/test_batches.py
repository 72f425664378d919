"""A pair's scores do not depend on what is computed beside it, in what blocks or precision."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import Pairs, attribute
from tests.support.models import ARCHITECTURES, random_pairs, tiny_model

MODELS = {name: tiny_model(name) for name in ARCHITECTURES}


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(ARCHITECTURES),
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    batch_size=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
    method=st.sampled_from(["EAP-IG-inputs", "EAP-IG-activations"]),
    tokens=st.integers(1, 9),
    kv=st.sampled_from(["grouped", "ungrouped"]),
)
def test_result_does_not_depend_on_batch_company_order_or_blocks(
    name, lengths, batch_size, order, method, tokens, kv
):
    """Pairs alone, and the same in shuffled batches with padding, contracted block by block."""
    model, pairs = MODELS[name], random_pairs(len(lengths), tuple(lengths))
    shuffled = list(range(len(pairs)))
    order.shuffle(shuffled)
    options = {"method": method, "metric": "logit_diff", "ig_steps": 2, "kv": kv}
    alone = attribute(model, pairs, batch_size=1, **options).per_pair
    again = Pairs([pairs[index] for index in shuffled])
    together = attribute(
        model, again, batch_size=batch_size, memory_budget=tokens * 2**20, **options
    ).per_pair
    assert torch.allclose(together, alone[shuffled], atol=2e-6 * float(alone.abs().max()))


def test_padded_positions_contribute_nothing():
    """Whatever the padding token is: the scores of a short pair beside a long one don't change."""
    model, pairs = tiny_model("qwen3"), random_pairs(2, (3, 8))
    results = []
    for pad in (0, 17):
        batches = lambda size, pad=pad: Pairs.batches(pairs, size, pad)  # noqa: E731
        copy = Pairs(list(pairs))
        copy.batches = batches
        results.append(attribute(model, copy, batch_size=2, ig_steps=2).per_pair)
    assert torch.equal(*results)


def test_many_steps_are_folded_without_a_trace(caplog):
    model, pairs = tiny_model("qwen2"), random_pairs(2)
    whole = attribute(model, pairs, ig_steps=7).per_pair
    caplog.set_level("INFO")
    folded = attribute(model, pairs, ig_steps=7, memory_budget=2**14).per_pair
    assert torch.allclose(whole, folded, atol=1e-10)
    assert "up to 2 steps are kept" in caplog.text
    assert "in blocks of 1 tokens" in caplog.text


def test_low_precision_is_accumulated_in_float32():
    model, pairs = tiny_model("qwen2", torch.float32), random_pairs(2)
    reference = attribute(model, pairs, metric="logit_diff").mean
    low = attribute(model.to(torch.bfloat16), pairs, metric="logit_diff").mean
    assert low.dtype == torch.float32
    assert (low - reference).abs().max() < 0.2 * reference.abs().max()
    assert len(low[low != 0].unique()) > 0.9 * int((low != 0).sum())  # no bfloat16 grid

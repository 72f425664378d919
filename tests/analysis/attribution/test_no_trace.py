"""What an attribution leaves behind: nothing on the model, and no graph in memory."""

from __future__ import annotations

import pytest
import torch

from analysis import EdgeScores, Pair, Pairs, attribute
from analysis.attribution.gradients import GradientSums
from tests.support.models import random_pairs, tiny_model


def test_model_is_left_as_it_was():
    model = tiny_model("qwen2", torch.float32).train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    modes = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    weights = [p.clone() for p in model.parameters()]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    attribute(model, random_pairs(), ig_steps=1)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(next(model.parameters()).grad, torch.ones_like(weights[0]))
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_are_removed_after_an_error():
    model = tiny_model("qwen2", torch.float32)
    pairs = Pairs([Pair((5, 6), (7, 8))])
    with pytest.raises(ValueError, match="target and a foil"):
        attribute(model, pairs, metric="logit_diff")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_do_not_hold_the_graph():
    """What a batch leaves behind is freed when it ends, not when the garbage collector comes."""
    import gc
    import weakref

    model = tiny_model("qwen2")
    alive = []
    original = GradientSums.__init__

    def remember(self, *args):
        original(self, *args)
        alive.append(weakref.ref(self))

    gc.disable()
    try:
        GradientSums.__init__ = remember
        attribute(model, random_pairs(2), batch_size=1)
    finally:
        GradientSums.__init__ = original
        gc.enable()
    assert isinstance(attribute(model, random_pairs()), EdgeScores)
    assert len(alive) == 2 and all(reference() is None for reference in alive)

"""The choices of routers: found without names, recorded, held; and of what holding makes whole."""

from __future__ import annotations

import pytest
import torch

from analysis.attribution.quadrature import path_points
from analysis.models.routing import Routing
from tests.support.experts import KINDS, tiny_mixture
from tests.support.models import tiny_model


def routing_of(model) -> Routing:
    return Routing([(layer, [layer.self_attn]) for layer in model.model.layers])


def ids(seed: int, pairs: int = 3, length: int = 6) -> torch.Tensor:
    return torch.randint(3, 50, (pairs, length), generator=torch.Generator().manual_seed(seed))


def last_logits(model, tokens, embedding=None) -> torch.Tensor:
    """[pairs, V]; embedding: what is put in the place of the tokens' own."""
    given = {"input_ids": tokens} if embedding is None else {"inputs_embeds": embedding}
    return model(**given, use_cache=False).logits[:, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_held_is_what_was_chosen(kind):
    model, clean, other = tiny_mixture(kind), ids(0), ids(1)
    routing = routing_of(model)
    with torch.no_grad():
        with routing.recorded():
            logits = last_logits(model, clean)
        with routing.held():
            held = last_logits(model, clean)
            copies = last_logits(model, clean.repeat(3, 1))
            elsewhere = last_logits(model, other)
        free = last_logits(model, other)
    assert torch.equal(held, logits)  # to the last bit, at the prompt itself
    assert torch.allclose(copies, logits.repeat(3, 1))
    assert routing.layers == ([1] if kind in ("a dense layer", "groups") else [0, 1])
    assert not torch.equal(elsewhere, free)  # another prompt, which would choose otherwise


@pytest.mark.parametrize("kind", KINDS)
def test_the_path_integral_closes_where_routing_is_held_and_not_where_it_is_free(kind):
    model = tiny_mixture(kind, seed=3).requires_grad_(False)
    tokens = ids(0)
    clean = model.get_input_embeddings()(tokens)
    corrupted = clean.clone()
    corrupted[:, 2] = model.get_input_embeddings()(ids(1))[:, 2]
    weight = torch.randn(128, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    routing = routing_of(model)
    with routing.recorded(), torch.no_grad():
        last_logits(model, tokens)

    def gap() -> float:
        total = 0.0
        for alpha, share in path_points("gauss-legendre", 16):
            x = torch.lerp(corrupted, clean, alpha).requires_grad_()
            [gradient] = torch.autograd.grad((last_logits(model, None, x) @ weight).sum(), [x])
            total += float((gradient * (corrupted - clean)).sum()) * share
        with torch.no_grad():
            ends = [float((last_logits(model, None, x) @ weight).sum()) for x in (corrupted, clean)]
        change = ends[0] - ends[1]
        return abs(total - change) / abs(change)

    assert gap() > 1e-2
    with routing.held():
        assert gap() < 1e-3


def test_choices_are_told_by_what_the_experts_get():
    """An oracle: an expert whose weights are changed changes the tokens that it is given."""
    for kind in KINDS:
        model, tokens = tiny_mixture(kind), ids(0)
        routing, layer = routing_of(model), model.model.layers[1]
        seen: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda m, a, o, s=seen: s.append(o))
        with torch.no_grad(), routing.recorded():
            last_logits(model, tokens)
        chosen, count = routing.experts(1)
        assert chosen.shape == (18, 1 if kind == "one expert a token" else 2)
        weights = next(p for p in layer.parameters() if p.ndim == 3)
        assert count == len(weights)
        for expert in range(count):
            with torch.no_grad():
                kept = weights[expert].clone()
                weights[expert] += 1.0
                last_logits(model, tokens)
                weights[expert] = kept
            moved = (seen[-1] != seen[0]).any(-1).flatten()
            assert torch.equal(moved, (chosen == expert).any(-1))
        hook.remove()


def test_a_model_without_experts_has_no_choices_and_is_left_as_it_is():
    model, tokens = tiny_model("qwen3"), ids(0)
    routing = routing_of(model)
    with torch.no_grad():
        with routing.recorded():
            logits = last_logits(model, tokens)
        with routing.held():
            assert torch.equal(last_logits(model, ids(1)), last_logits(model, ids(1)))
    assert routing.layers == [] and torch.equal(logits, last_logits(model, tokens))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())

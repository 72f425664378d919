"""Layers that are run twice give the same scores, or one line says why they can't."""

from __future__ import annotations

import logging
from types import MethodType

import pytest
import torch

from analysis import attribute
from analysis.attribution import choosing
from analysis.attribution.memory import plan
from analysis.attribution.refiner import Refiner
from analysis.detection.detect import anatomy
from analysis.models.anatomy import Unsupported
from tests.support.experts import tiny_mixture
from tests.support.models import random_pairs, tiny_model

PAIRS = random_pairs(3)
LOGITS = {"metric": "logit_diff", "ig_steps": 2}


def adapted(name: str):
    """A model with a LoRA adapter that is not 0."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        how = {"target_modules": ["q_proj", "o_proj", "down_proj"], "init_lora_weights": False}
        return get_peft_model(tiny_model(name), LoraConfig(r=2, **how))


@pytest.mark.parametrize(
    ("model", "how"),
    [
        pytest.param(lambda: tiny_model("gemma2"), {"ig_steps": 3}, id="norms after, kl, left"),
        pytest.param(lambda: tiny_model("gpt2"), LOGITS, id="fused rows"),
        pytest.param(lambda: tiny_model("llama"), LOGITS | {"kv": "ungrouped"}, id="ungrouped"),
        pytest.param(lambda: adapted("qwen3"), LOGITS, id="LoRA"),
        pytest.param(lambda: tiny_model("llama", torch.bfloat16), LOGITS, id="narrow"),
        pytest.param(lambda: tiny_mixture("plain", seed=3), LOGITS, id="experts"),
        pytest.param(
            lambda: tiny_mixture("plain", seed=3), LOGITS | {"routing": "frozen"}, id="frozen"
        ),
        pytest.param(
            lambda: tiny_mixture("plain", seed=3),
            {"ig_steps": "auto", "quadrature": "midpoint", "gap": 0.02, "routing": "frozen"},
            id="frozen, where pairs need it",
        ),
        *(
            pytest.param(lambda: tiny_model("qwen2"), LOGITS | {"method": method}, id=method)
            for method in ("EAP", "EAP-IG-activations", "CEAP", "GIM", "clean-corrupted")
        ),
    ],
)
def test_scores_are_the_same_to_the_last_bit(model, how):
    model = model()
    once, twice = (attribute(model, PAIRS, recompute=again, **how) for again in (False, True))
    assert once.per_pair.any()
    assert torch.equal(once.per_pair, twice.per_pair)
    assert not any(p.grad is not None for p in model.parameters())


def with_layer(change):
    """A model whose second layer does something strange, by `change(layer, its own forward)`."""
    model = tiny_model("llama")
    layer = model.model.layers[1]
    own = layer.forward
    layer.forward = MethodType(lambda self, x, **kwargs: change(model, own, x, kwargs), layer)
    return model


def noisy(model, own, x, kwargs):
    return own(x, **kwargs) + torch.rand(())


def in_place(model, own, x, kwargs):
    return own(x.mul_(1.0), **kwargs)


def from_elsewhere(model, own, x, kwargs):
    return own(x, **kwargs) + 0.1 * model.kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (noisy, "layer 1 does not give the same when it is run again; use recompute=false"),
        (in_place, "layer 1 changes what it is given in place"),
        (from_elsewhere, "does not come through what its layers are given"),
    ],
)
def test_a_layer_that_can_not_be_run_twice_is_refused(change, message):
    from analysis.attribution.gradient_run import check_recomputed

    model = with_layer(change)
    parts = anatomy(tiny_model("llama"))
    first, parts = (
        model.model.layers[0],
        type(parts)(
            **{**vars(parts), "causal_lm": model, "decoder": model.model}
            | {"embedding": model.model.embed_tokens, "layers": model.model.layers}
        ),
    )
    first.register_forward_hook(lambda module, args, y: setattr(model, "kept", y))
    model.requires_grad_(False)
    with pytest.raises(Unsupported, match=message):
        check_recomputed(parts, PAIRS)


def test_auto_runs_layers_twice_where_memory_is_short_and_says_so(monkeypatch, caplog):
    model, runs = tiny_model("llama"), []
    model.model.layers[0].register_forward_hook(lambda *_: runs.append(1))

    def count(free):
        monkeypatch.setattr(choosing, "free_memory", lambda device: free)
        runs.clear()
        scores = attribute(model, PAIRS, ig_steps=1).per_pair
        return len(runs), scores

    attribute(model, PAIRS, ig_steps=1)  # the model is proved
    with caplog.at_level(logging.INFO):
        enough, plenty = count(2**40)
        assert count(None)[0] == enough and "recompute" not in caplog.text
        short, scarce = count(2**16)
    assert short > enough and torch.equal(plenty, scarce)
    assert "recompute=auto: 3 pairs of up to 6 tokens at a time need about" in caplog.text


def test_recompute_is_true_false_or_auto():
    with pytest.raises(ValueError, match="recompute is 'maybe'; give true, false or auto"):
        attribute(tiny_model("llama"), PAIRS, recompute="maybe")


def test_scores_of_later_points_stay_within_the_budget(monkeypatch):
    model, kept = tiny_model("qwen3"), []
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    own = Refiner._cut

    def counted(self, paths, cells, scores):
        own(self, paths, cells, scores)
        kept.append((len(scores), sum(map(len, scores.values()))))

    monkeypatch.setattr(Refiner, "_cut", counted)
    how = {"metric": "kl", "ig_steps": "auto", "quadrature": "midpoint"}
    together = attribute(model, PAIRS, **how)
    assert max(kept)[0] > 1
    one = plan(anatomy(model), 3, 6, 0).points
    kept.clear()
    singly = attribute(model, PAIRS, memory_budget=2 * one - 1, **how)
    assert max(kept)[0] == 1
    assert torch.equal(together.points, singly.points)
    scale = float(together.per_pair.abs().max())
    assert torch.allclose(together.per_pair, singly.per_pair, rtol=0, atol=1e-9 * scale)

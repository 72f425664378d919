"""Changing heads of other families than Llama's: live, baked, and while tokens are generated."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from analysis.detection.detect import anatomy
from analysis.interventions.baking import bake
from analysis.interventions.operations import Intervention, constants, intervened
from tests.support.families.build import build
from tests.support.families.float64 import Float64

REFERENCE = [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16]]
# what is special, and the type of the model that a mean is baked into, None if it can't be
KINDS = {
    "glm4": ("norms after the heads; no bias to be had", None),
    "qwen3_5_text": ("gates; heads of linear attention", "qwen3_5_text"),
    "falcon_h1": ("scaled, beside a state space", "falcon_h1"),
    "falcon": ("linear modules of its own", "falcon"),
    "longcat_flash": ("two attentions in a layer", "longcat_flash"),
    "ministral3": ("full attention under another name than Llama's", "llama"),
    "phi3": ("one projection for q, k and v; no bias to be had", None),
    "gemma3": ("a wrapper, with a switch in the text's configuration", "gemma3"),
}


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
def test_live_equals_baked(kind):
    """In float64: the same logits, from weights and from hooks; a mean where biases can be."""
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(3))
    with Float64():
        model = build(kind)
        parts = anatomy(model)
        kinds = zip(parts.graph.heads, parts.graph.head_kinds, strict=True)
        heads = [head for head, kind_of_head in kinds if kind_of_head == "softmax"]
        some = heads[0], heads[-1], heads[len(heads) // 2]
        before = logits(model, ids)
        for operation, factor in (("scale", -0.5), ("mean", 0.0)):
            change = Intervention(operation, some, factor)
            added = constants(model, change, REFERENCE, parts=parts)
            with intervened(model, change, added, parts):
                live = logits(model, ids)
            assert (live - before).abs().max() > 1e-2
            if operation == "mean" and KINDS[kind][1] is None:
                with pytest.raises(ValueError, match=f"a mean can't be baked into {kind}: its o_p"):
                    bake(copy.deepcopy(model), change, added)
                continue
            baked = bake(copy.deepcopy(model), change, added)
            torch.testing.assert_close(logits(baked, ids), live, atol=1e-12, rtol=0)
        assert baked.config.model_type == KINDS[kind][1] or KINDS[kind][1] is None
        assert torch.equal(logits(model, ids), before)


GENERATING = {
    "qwen3_5_text": "a state beside keys and values",
    "gemma4_unified_text": "a window, and layers that see the prompt's last token only",
    "deepseek_v3": "latents are what is kept",
    "bloom": "no positions are handed over",
}


@pytest.mark.parametrize("kind", GENERATING)
def test_generation_with_a_cache_is_that_without(kind):
    """Greedy decoding with means by position, left-padded: token by token from whole prompts."""
    ids = torch.randint(5, 50, (1, 6), generator=torch.Generator().manual_seed(3))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = (padded > 0).long()
    model = build(kind, dtype=torch.float32)
    parts = anatomy(model)
    heads = parts.graph.heads
    change = Intervention("mean_by_position", (heads[0], heads[-1], heads[3]))
    added = constants(model, change, REFERENCE, parts=parts)
    how = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with intervened(model, change, added, parts):
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        left = model.generate(padded, attention_mask=mask, **how)
        wanted = ids
        for _ in range(4):
            token = logits(model, wanted)[:, -1:].argmax(-1)
            wanted = torch.cat([wanted, token], 1)
    assert torch.equal(answer, wanted)
    assert torch.equal(left[:, 3:], wanted)
    assert not torch.equal(model.generate(ids, attention_mask=torch.ones_like(ids), **how), answer)


def test_heads_of_linear_attention_are_changed_too():
    """Their output projection has no bias that a switch gives, so that a mean is live only."""
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(3))
    with Float64():
        model = build("qwen3_5_text")
        change = Intervention("scale", ((0, 1), (2, 3)), 0.5)
        with intervened(model, change):
            live = logits(model, ids)
        baked = bake(copy.deepcopy(model), change)
        torch.testing.assert_close(logits(baked, ids), live, atol=1e-12, rtol=0)
        mean = Intervention("mean", ((0, 1),))
        with pytest.raises(ValueError, match="into qwen3_5_text: its out_proj has no bias"):
            bake(model, mean, constants(model, mean, REFERENCE))


def test_a_baked_model_that_computes_something_else_is_refused():
    """One projection that two layers share is changed in both."""
    model = build("llama")
    first, second = (layer.self_attn for layer in model.model.layers)
    second.o_proj.weight = first.o_proj.weight
    with pytest.raises(ValueError, match=r"zero:L0H1 in its weights computes something else than "):
        bake(model, Intervention("zero", ((0, 1),)))


def test_a_model_that_only_looks_like_a_llama_is_none():
    """The same tensors and another activation: only the logits tell."""
    model = build("ministral3", hidden_act="gelu_pytorch_tanh")
    model.config.hidden_act = "silu"
    change = Intervention("mean", ((0, 1),))
    parts = anatomy(model)
    added = constants(model, change, REFERENCE, parts=parts)
    with pytest.raises(ValueError, match="a mean can't be baked into ministral3: its o_proj has"):
        bake(model, change, added)

"""Patterns and copying of heads of other families than Llama's: fused, gated, latent, in layers."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from analysis import Pair, Pairs
from analysis.detection.detect import anatomy
from analysis.heads.attention import PATTERN_SCORES, _say_unseen, pattern_scores
from analysis.heads.copying import copying
from analysis.heads.patterns import eager, see_patterns
from analysis.heads.roles import head_roles
from analysis.reporting.roles import _undefined
from tests.support.families.build import build
from tests.support.models import random_pairs

H, E = 4, 8


@cache
def of(kind: str) -> tuple[Any, Any]:
    model = build(kind, dtype=torch.float32)
    return model, anatomy(model)


KINDS = {
    "gpt_oss": "sinks take a share",
    "falcon": "no attention interface",
    "qwen3_5_text": "gates; layers of linear attention, which has no pattern",
    "longcat_flash": "two attentions in each layer",
    "deepseek_v3": "latents",
    "gemma3": "a wrapper",
}


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_are_those_that_transformers_gives(kind):
    model, parts = of(kind)
    ids = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(1))
    seen: list[tuple[int, int]] = []
    found: list[torch.Tensor] = []

    def see(layer: int, heads: Any, pattern: torch.Tensor) -> None:
        seen.append((layer, heads.first))
        found.append(pattern)

    see_patterns(parts, ids, see)
    with eager(model), torch.no_grad():
        wanted = model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    wanted = [pattern for pattern in wanted if pattern is not None]
    softmax = [(b.layer, heads.first) for b, heads in parts.heads if heads.kind == "softmax"]
    assert seen == softmax
    for pattern, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(pattern, expected, atol=1e-6, rtol=0)


def test_heads_without_a_pattern_are_undefined_and_said(caplog):
    """Those of linear attention, and of attentions whose pattern is not what mixes (DiffLlama)."""
    _say_unseen.cache_clear()
    model, parts = of("falcon")
    block = parts.blocks[1]
    linear = replace(block, heads=(replace(block.heads[0], kind="linear"),))
    mixed = replace(parts, blocks=(parts.blocks[0], linear))
    pairs = Pairs([Pair((5, 6, 7, 5, 6), (7, 6, 5, 7, 8))] * 2)
    with caplog.at_level(logging.WARNING):
        roles = head_roles(model, pairs, resamples=10, parts=mixed)
    values = torch.tensor(roles.scores["previous_token"].value)
    assert values.isnan().tolist() == [False] * 4 + [True] * 4
    assert "no attention pattern is seen of 4 of 8 heads (a1.h0, a1.h1, " in caplog.text
    caplog.clear()
    head_roles(model, pairs, resamples=10, parts=mixed)
    assert "no attention pattern" not in caplog.text  # nor at the next checkpoint
    assert torch.tensor(roles.scores["copying"].value).isnan().tolist() == values.isnan().tolist()
    notes = _undefined(roles)
    assert [note.split(":")[0] for note in notes] == [
        f"no {what} of 4 heads (L1H0, L1H1, L1H2, L1H3)" for what in ("pattern", "copying")
    ]
    model, parts = of("diffllama")
    regions = [region_of(pair) for pair in random_pairs(1)]
    scores = pattern_scores(model, random_pairs(1), regions, parts=parts)
    assert scores.shape == (1, len(PATTERN_SCORES), 8)
    assert scores.isnan().all()


def region_of(pair: Pair) -> Any:
    from analysis.prompts.regions import Region

    return Region((), (), (), tuple(range(-1, len(pair.clean_ids) - 1)))


def values_by_hand(kind: str, attention: Any, head: int) -> torch.Tensor:
    """The rows of a head's values, by the names of the family: [e, d]."""
    if kind == "phi3":  # [q of 4 heads, k of 2, v of 2]
        return attention.qkv_proj.weight.view(H + 2 + 2, E, -1)[H + 2 + head // 2]
    if kind == "gpt_neox":  # [q, k, v] of each head
        return attention.query_key_value.weight.view(H, 3, E, -1)[head, 2]
    return attention.v_proj.weight.view(2, E, -1)[head // 2]


COPIES = {
    "phi3": ("model", "input_layernorm", "self_attn", "o_proj", None),
    "gpt_neox": ("gpt_neox", "input_layernorm", "attention", "dense", None),
    "olmo": ("model", "input_layernorm", "self_attn", "o_proj", None),  # norms without weights
    "olmo2": ("model", None, "self_attn", "o_proj", "post_attention_layernorm"),
}


@pytest.mark.parametrize("kind", COPIES)
@torch.no_grad()
def test_copying_is_that_of_the_map_on_the_vocabulary(kind):
    """Eigenvalues of the whole [V, V] map, of rows and norms by their names."""
    decoder, before, attention, o_proj, after = COPIES[kind]
    model, parts = of(kind)
    inner, found = getattr(model, decoder), copying(model, parts)
    centred = kind in ("gpt_neox", "olmo")

    def gained(x: torch.Tensor, norm: Any, centred: bool = centred) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True) if centred else x
        weight = getattr(norm, "weight", None)
        return x if weight is None else x * weight

    ends = {"gpt_neox": ("embed_in", "final_layer_norm")}.get(kind, ("embed_tokens", "norm"))
    E_in, last = getattr(inner, ends[0]).weight, getattr(inner, ends[1])
    U = model.get_output_embeddings().weight
    for index, score in enumerate(found.tolist()):
        layer, head = inner.layers[index // H], index % H
        x = E_in if before is None else gained(E_in, getattr(layer, before))
        z = x @ values_by_hand(kind, getattr(layer, attention), head).T
        W = getattr(getattr(layer, attention), o_proj).weight.view(-1, H, E)[:, head]
        written = z @ W.T if after is None else gained(z @ W.T, getattr(layer, after))
        e = np.linalg.eigvals((gained(written, last) @ U.T).double().numpy())
        assert score == pytest.approx(e.sum().real / np.abs(e).sum(), abs=1e-4)


@pytest.mark.parametrize("kind", ["deepseek_v3", "bloom"])
def test_copying_is_undefined_of_latents_and_behind_normed_embeddings(kind):
    assert all(map(math.isnan, copying(*of(kind)).tolist()))

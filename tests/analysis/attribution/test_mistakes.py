"""Bad input and weights that are not numbers are named."""

from __future__ import annotations

import pytest
import torch

from analysis import Pair, Pairs, attribute
from tests.support.models import random_pairs, tiny_model


def test_bad_input_is_named():
    model = tiny_model("qwen2", torch.float32)
    with pytest.raises(ValueError, match=r"unknown method 'eap'.*EAP-IG-inputs"):
        attribute(model, random_pairs(), method="eap")
    with pytest.raises(ValueError, match=r"unknown metric 'loss'.*nll"):
        attribute(model, random_pairs(), metric="loss")
    with pytest.raises(ValueError, match=r"unknown quadrature 'simpson'.*midpoint"):
        attribute(model, random_pairs(), quadrature="simpson")
    with pytest.raises(ValueError, match=r"unknown kv 'both'.*ungrouped"):
        attribute(model, random_pairs(), kv="both")
    with pytest.raises(ValueError, match="ig_steps is 0"):
        attribute(model, random_pairs(), ig_steps=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        attribute(model, random_pairs(), batch_size=0)
    with pytest.raises(ValueError, match="pair 0 has token id 50"):
        attribute(model, Pairs([Pair((50,), (1,))]))
    with pytest.raises(ValueError, match="clean has 2 tokens and corrupted 1"):
        Pair((1, 2), (1,))
    with pytest.raises(ValueError, match="at least one"):
        Pairs([])
    with pytest.raises(
        ValueError, match="pair 0 has 65 tokens, but the model has positions for 64"
    ):
        attribute(tiny_model("gpt2"), random_pairs(1, (65,)))


def test_nan_weights_are_named():
    for name in ("mlp.down_proj", "self_attn.v_proj", "input_layernorm"):
        model = tiny_model("qwen2", torch.float32)
        with torch.no_grad():
            model.model.layers[1].get_submodule(name).weight[0].fill_(float("nan"))
        with pytest.raises(ValueError, match=r"not finite.*NaN"):
            attribute(model, random_pairs())
    model = tiny_model("qwen2", torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight[int(random_pairs()[1].clean_ids[0])] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        attribute(model, random_pairs())

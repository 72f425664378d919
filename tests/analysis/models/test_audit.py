"""Models whose parts do not add up."""

from __future__ import annotations

import pytest
import torch

from analysis import attribute
from tests.support.models import random_pairs, tiny_model


@pytest.mark.parametrize("where", ["attention", "projection", "norm", "stream"])
def test_a_model_whose_parts_do_not_add_up_is_refused(where):
    """Modelling code that differs from its architecture's in a way that hooks can't see."""
    model = tiny_model("llama")
    layer = model.model.layers[1]
    if where == "attention":
        layer.self_attn.o_proj.register_forward_hook(lambda m, i, o: 1.1 * o)
    elif where == "projection":
        layer.self_attn.k_proj.register_forward_hook(lambda m, i, o: o + 0.1)
    elif where == "norm":
        layer.input_layernorm.register_forward_hook(lambda m, i, o: o.tanh())
    else:
        layer.register_forward_hook(lambda m, i, o: o.tanh())
    with pytest.raises(ValueError, match="do not add up"):
        attribute(model, random_pairs())


def test_a_bias_that_a_layer_adds_apart_is_no_edge_and_no_fault():
    model, plain = tiny_model("llama"), tiny_model("llama")
    bias = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model.model.layers[0].register_forward_hook(lambda m, i, o: o + bias)
    changed = attribute(model, random_pairs(), "EAP", "logit_diff").per_pair
    assert (
        changed - attribute(plain, random_pairs(), "EAP", "logit_diff").per_pair
    ).abs().max() > 0
    token = torch.zeros(8, 1, dtype=torch.float64)
    token[3] = 1.0
    model.model.layers[0].register_forward_hook(lambda m, i, o: o + token[: o.shape[1]])
    with pytest.raises(ValueError, match="do not add up"):
        attribute(model, random_pairs())

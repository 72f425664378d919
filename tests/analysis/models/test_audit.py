"""Models whose parts do not add up."""

from __future__ import annotations

import pytest

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
        layer.register_forward_hook(lambda m, i, o: 1.1 * o)
    with pytest.raises(ValueError, match="do not add up"):
        attribute(model, random_pairs())

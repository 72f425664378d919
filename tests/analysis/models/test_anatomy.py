"""The parts of a model: heads are blocks of o_proj, and only known architectures are read."""

from __future__ import annotations

import pytest
import torch

from analysis import attribute
from analysis.detection.detect import anatomy
from analysis.models.anatomy import Unsupported
from analysis.models.linear import linear_map
from tests.support.models import random_pairs, tiny_model


def test_head_outputs_add_up_to_the_attention_output(architecture):
    """Sum over heads of z_h W_O[h], plus the bias, is what o_proj returns."""
    model = tiny_model(architecture)
    parts = anatomy(model)
    seen = {}
    o_proj, H = parts.blocks[1].heads[0].o_proj, parts.graph.n_heads
    handle = o_proj.register_forward_hook(lambda m, i, o: seen.update(z=i[0], out=o))
    with torch.no_grad():
        model(torch.tensor([[5, 6, 7, 8]]))
    handle.remove()
    weight = linear_map(o_proj)
    e = weight.shape[1] // H
    heads = [
        seen["z"][..., h * e : (h + 1) * e] @ weight[:, h * e : (h + 1) * e].T for h in range(H)
    ]
    total = sum(heads) + (0 if o_proj.bias is None else o_proj.bias)
    assert torch.allclose(total, seen["out"], atol=1e-10)


def test_zeroing_columns_of_o_proj_equals_zeroing_its_input(architecture):
    """A head is a block of columns of o_proj; the slice of its output is something else."""
    if architecture == "gpt2":
        pytest.skip("its o_proj is stored transposed: the block is one of rows")
    model = tiny_model(architecture)
    parts = anatomy(model)
    e, head = parts.blocks[0].readings[0].sides[0].n_rows, 2
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    block = slice(head * e, (head + 1) * e)
    o_proj = parts.blocks[0].heads[0].o_proj

    def silence_input(module, args):
        z = args[0].clone()
        z[..., block] = 0
        return (z,)

    def silence_output(module, args, output):
        output = output.clone()
        output[..., block] = 0
        return output

    with torch.no_grad():
        handle = o_proj.register_forward_pre_hook(silence_input)
        hooked = model(ids).logits
        handle.remove()
        wrong_hook = o_proj.register_forward_hook(silence_output)
        wrong = model(ids).logits
        wrong_hook.remove()
        o_proj.weight[:, block] = 0
        baked = model(ids).logits
    assert torch.allclose(hooked, baked, atol=1e-10)
    assert (wrong - baked).abs().max() > 1e-3


def test_unsupported_architecture_is_refused():
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(n_layer=1, n_head=2, n_embd=8, vocab_size=50)
    with pytest.raises(Unsupported, match="layer 0: what it returns is not the residual stream"):
        attribute(OpenAIGPTLMHeadModel(config), random_pairs())
    model = tiny_model("llama")
    del model.model.layers[1].self_attn.o_proj
    with pytest.raises(Unsupported, match=r"LlamaForCausalLM does not run on token ids.*'o_proj'"):
        attribute(model, random_pairs())

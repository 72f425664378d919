"""The attribution core against independent oracles: patched forward passes and stored scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import random_pairs, tiny_model
from safetensors.torch import load_file
from torch.nn.functional import linear

from analysis import Pair, Pairs, attribute
from analysis.anatomy import anatomy, linear_map
from analysis.attribution import METRICS
from analysis.graph import Graph
from analysis.pairs import Batch, collate

GOLDEN = Path(__file__).parent / "golden"


def rms_norm(module, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm in float64 throughout; that of Hugging Face is float32, too coarse to difference."""
    return module.weight * x / (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt()


def patched_forward(model, ids: torch.Tensor, batch: Batch, perturb: dict[str, torch.Tensor]):
    """A plain forward pass written out here, in which the input of one destination is perturbed.

    `perturb` maps a destination's name to what is added to its input before the norm: [B, T, d].
    Projections are applied per head and from their own perturbed input, so that nothing of the
    code under test is used. Returns the logits at the pairs' positions and all sources' outputs.
    """
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    config, decoder = model.config, model.model
    H, K = config.num_attention_heads, config.num_key_value_heads
    e = getattr(config, "head_dim", None) or config.hidden_size // H
    x = decoder.embed_tokens(ids)
    B, T, d = x.shape
    positions = torch.arange(T)[None]
    cos, sin = decoder.rotary_emb(x, positions)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    if getattr(config, "sliding_window", None):
        allowed &= ~torch.ones(T, T, dtype=torch.bool).tril(-config.sliding_window)
    allowed = allowed[None] & batch.mask[:, None, :].bool()
    outputs = {"input": x}
    for index, layer in enumerate(decoder.layers):
        attention = layer.self_attn

        def rows(projection, name, head, x=x, norm=layer.input_layernorm):
            shifted = rms_norm(norm, x + perturb.get(name, 0))
            weight = projection.weight.view(-1, e, d)[head]
            bias = None if projection.bias is None else projection.bias.view(-1, e)[head]
            return linear(shifted, weight, bias)

        q = [rows(attention.q_proj, f"a{index}.h{h}<q>", h) for h in range(H)]
        k = [rows(attention.k_proj, f"a{index}.kv{j}<k>", j) for j in range(K)]
        v = [rows(attention.v_proj, f"a{index}.kv{j}<v>", j) for j in range(K)]
        if hasattr(attention, "q_norm"):
            q = [rms_norm(attention.q_norm, part) for part in q]
            k = [rms_norm(attention.k_norm, part) for part in k]
        q, k = apply_rotary_pos_emb(torch.stack(q, 1), torch.stack(k, 1), cos, sin)
        written = 0
        for h in range(H):
            weights = q[:, h] @ k[:, h // (H // K)].mT / e**0.5
            weights = weights.masked_fill(~allowed, -torch.inf).softmax(-1)
            z = weights @ v[h // (H // K)]
            outputs[f"a{index}.h{h}"] = z @ attention.o_proj.weight.view(d, H, e)[:, h].T
            written = written + outputs[f"a{index}.h{h}"]
        x = x + written
        mlp_in = rms_norm(layer.post_attention_layernorm, x + perturb.get(f"m{index}", 0))
        outputs[f"m{index}"] = layer.mlp(mlp_in)
        x = x + outputs[f"m{index}"]
    final = rms_norm(decoder.norm, x + perturb.get("logits", 0))
    return model.lm_head(final[torch.arange(B), batch.positions]), outputs


@pytest.mark.parametrize(("metric", "method"), [("logit_diff", "EAP"), ("kl", "EAP-IG-inputs")])
def test_scores_are_derivatives_along_every_patched_edge(architecture, metric, method):
    """score(u -> v) = d metric / d t when the input of v gets t (corrupted u - clean u).

    EAP takes the derivative on the clean prompt; EAP-IG-inputs with one step takes it on the
    corrupted one, where the gradient of the KL divergence is not 0.
    """
    model = tiny_model(architecture)
    pairs = random_pairs(2)
    scores = attribute(model, pairs, method=method, metric=metric, ig_steps=1, batch_size=2).mean
    batch = collate(list(pairs))
    graph = anatomy(model).graph
    at = batch.clean if method == "EAP" else batch.corrupted
    step = 1e-4
    expected = torch.zeros_like(scores)
    with torch.no_grad():
        clean_logits, clean = patched_forward(model, batch.clean, batch, {})
        _, corrupted = patched_forward(model, batch.corrupted, batch, {})
        logits = model(batch.clean, attention_mask=batch.mask).logits
        assert torch.allclose(clean_logits, logits[torch.arange(2), batch.positions], atol=1e-4)
        for u, v in graph.edges.tolist():
            source, destination = graph.source_names[u], graph.destination_names[v]
            change = (corrupted[source] - clean[source]) * batch.mask[..., None]
            up, down = (
                METRICS[metric](
                    patched_forward(model, at, batch, {destination: t * change})[0],
                    clean_logits,
                    batch,
                )
                for t in (step, -step)
            )
            expected[u, v] = (up - down).mean() / (2 * step)
    assert expected.abs().max() > 1e-2  # the test must have something to see
    assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()


def grouped(columns: list[str], reference: torch.Tensor, graph: Graph) -> torch.Tensor:
    """Sum the package's k and v columns (one per query head) over each group."""
    out = torch.zeros(graph.n_sources, graph.n_destinations, dtype=reference.dtype)
    size = graph.n_heads // graph.n_kv_heads
    for index, name in enumerate(graph.destination_names):
        members = [name]
        if ".kv" in name:
            layer, rest = name[1:].split(".kv")
            members = [f"a{layer}.h{int(rest[0]) * size + i}{rest[1:]}" for i in range(size)]
        out[:, index] = reference[:, [columns.index(member) for member in members]].sum(1)
    return out


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-qwen3"])
@pytest.mark.parametrize("case", ["nopad", "rightpad"])
@pytest.mark.parametrize(
    "which", ["kl/EAP-IG-inputs", "logit_diff/EAP-IG-inputs", "logit_diff/EAP"]
)
def test_equals_the_original_package(name, case, which):
    """Stored float64 scores of the EAP-IG package (golden/README.md), to 1e-6 of the largest."""
    from transformers import AutoModelForCausalLM

    directory = GOLDEN / name
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    cases = json.loads((directory / "cases.json").read_text())
    reference = load_file(directory / "scores.safetensors")[f"{case}/{which}"]
    metric, method = which.split("/")
    pairs = Pairs([Pair(tuple(c), tuple(k), *labels) for c, k, labels in cases[case]])
    scores = attribute(model, pairs, method=method, metric=metric, batch_size=3)
    expected = grouped(cases["columns"], reference, scores.graph) * len(pairs)
    if metric == "logit_diff":
        expected = -expected
    assert scores.mean.dtype == torch.float64
    assert (scores.mean - expected).abs().max() < 1e-6 * expected.abs().max()


def test_head_outputs_add_up_to_the_attention_output(architecture):
    """Sum over heads of z_h W_O[h], plus the bias, is what o_proj returns."""
    model = tiny_model(architecture)
    parts = anatomy(model)
    seen = {}
    o_proj = parts.blocks[1].o_proj
    handle = o_proj.register_forward_hook(lambda m, i, o: seen.update(z=i[0], out=o))
    with torch.no_grad():
        model(torch.tensor([[5, 6, 7, 8]]))
    handle.remove()
    e, H = parts.head_dim, parts.graph.n_heads
    weight = linear_map(o_proj).view(-1, H, e)
    heads = torch.stack([seen["z"][..., h * e : (h + 1) * e] @ weight[:, h].T for h in range(H)])
    assert torch.allclose(heads.sum(0), seen["out"], atol=1e-10)


def test_zeroing_columns_of_o_proj_equals_zeroing_its_input(architecture):
    """A head is a block of columns of o_proj; the slice of its output is something else."""
    model = tiny_model(architecture)
    parts = anatomy(model)
    e, head = parts.head_dim, 2
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    block = slice(head * e, (head + 1) * e)
    o_proj = parts.blocks[0].o_proj

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


def test_result_does_not_depend_on_batch_size_or_company(architecture):
    model = tiny_model(architecture)
    pairs = random_pairs(5, (6, 3, 5, 4))
    together = attribute(model, pairs, batch_size=5, ig_steps=2).per_pair
    singly = attribute(model, pairs, batch_size=1, ig_steps=2).per_pair
    uneven = attribute(model, Pairs(list(pairs)[::-1]), batch_size=2, ig_steps=2).per_pair.flip(0)
    assert torch.allclose(together, singly, atol=1e-6)
    assert torch.allclose(together, uneven, atol=1e-6)


def test_completeness_gap_shrinks_with_steps():
    model = tiny_model("qwen3")
    pairs = random_pairs(3)
    gaps = [attribute(model, pairs, ig_steps=steps).completeness_gap for steps in (1, 10, 200)]
    assert gaps[2] < 0.02
    assert gaps[2] < gaps[1] < gaps[0]


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


def test_attached_lora_equals_merged():
    from peft import LoraConfig, get_peft_model

    model = tiny_model("qwen3", torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    attached = attribute(adapted, random_pairs(), ig_steps=2).mean
    merged = attribute(adapted.merge_and_unload(), random_pairs(), ig_steps=2).mean
    plain = attribute(tiny_model("qwen3", torch.float32), random_pairs(), ig_steps=2).mean
    assert (attached - merged).abs().max() < 1e-5 * merged.abs().max()
    assert (plain - merged).abs().max() > 1e-2 * merged.abs().max()


def test_bad_input_is_named():
    model = tiny_model("qwen2", torch.float32)
    with pytest.raises(ValueError, match=r"unknown method 'eap'.*EAP-IG-inputs"):
        attribute(model, random_pairs(), method="eap")
    with pytest.raises(ValueError, match="unknown metric 'loss'"):
        attribute(model, random_pairs(), metric="loss")
    with pytest.raises(ValueError, match="pair 0 has token id 50"):
        attribute(model, Pairs([Pair((50,), (1,))]))
    with pytest.raises(ValueError, match="clean has 2 tokens and corrupted 1"):
        Pair((1, 2), (1,))
    with pytest.raises(ValueError, match="at least one"):
        Pairs([])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="do not add up"):
        attribute(model, random_pairs())


def test_unsupported_architecture_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20))
    with pytest.raises(ValueError, match="'gpt2'; supported: llama, mistral, qwen2, qwen3"):
        attribute(model, random_pairs())

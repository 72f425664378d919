"""The attribution core against independent oracles: perturbed forward passes and stored scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import EdgeScores, Pair, Pairs, attribute
from analysis.attribution.gradients import GradientSums
from analysis.attribution.metrics import METRICS
from analysis.attribution.quadrature import QUADRATURES, path_points
from analysis.models.anatomy import anatomy, linear_map
from analysis.prompts.pairs import collate
from tests.support.golden import golden
from tests.support.models import ARCHITECTURES, random_pairs, tiny_model
from tests.support.oracle import Oracle


def changes(model, pairs: Pairs, kv: str, metric: str, at: str, step: float) -> torch.Tensor:
    """For every edge, [M(t = step) - M(t = -step)] / (2 step), or M(1) - M(0) if step is 0.

    t scales (corrupted u - clean u), added to the input of v; mean over pairs, [S, D].
    """
    oracle, batch, graph = Oracle(model), collate(list(pairs)), anatomy(model, kv).graph
    ids = batch.clean if at == "clean" else batch.corrupted
    expected = torch.zeros(graph.edge_mask.shape, dtype=torch.float64)
    with torch.no_grad():
        clean_logits, clean = oracle.forward(batch.clean, batch, {})
        _, corrupted = oracle.forward(batch.corrupted, batch, {})

        def value(destination: str, change: torch.Tensor) -> torch.Tensor:
            logits, _ = oracle.forward(ids, batch, {destination: change})
            return METRICS[metric](logits, clean_logits, batch).mean()

        for u, v in graph.edges.tolist():
            source, destination = graph.source_names[u], graph.destination_names[v]
            change = (corrupted[source] - clean[source]) * batch.mask[..., None]
            if step:
                up, down = (value(destination, t * change) for t in (step, -step))
                expected[u, v] = (up - down) / (2 * step)
            else:
                expected[u, v] = value(destination, change) - value(destination, 0 * change)
    assert expected.abs().max() > 1e-2  # the test must have something to see
    return expected


@pytest.mark.parametrize(
    ("metric", "method", "kv"),
    [
        ("logit_diff", "EAP", "grouped"),
        ("nll", "EAP", "ungrouped"),
        ("kl", "EAP-IG-inputs", "grouped"),
    ],
)
def test_scores_are_derivatives_along_every_patched_edge(architecture, metric, method, kv):
    """score(u -> v) = d metric / d t when the input of v gets t (corrupted u - clean u).

    EAP takes the derivative on the clean prompt; EAP-IG-inputs with one step takes it on the
    corrupted one, where the gradient of the KL divergence is not 0.
    """
    model, pairs = tiny_model(architecture), random_pairs(2)
    scores = attribute(model, pairs, method, metric, ig_steps=1, kv=kv, batch_size=2).mean
    at = "clean" if method == "EAP" else "corrupted"
    expected = changes(model, pairs, kv, metric, at, 1e-4)
    assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()


def test_exact_scores_are_the_change_that_patching_each_edge_makes(architecture):
    model, pairs = tiny_model(architecture), random_pairs(2)
    scores = attribute(model, pairs, "exact", "logit_diff", batch_size=2).mean
    expected = changes(model, pairs, "grouped", "logit_diff", "clean", 0)
    assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()


def test_scores_equal_the_original_package():
    """Stored float64 scores of the EAP-IG package (golden/README.md), to 1e-6 of the largest."""
    seen = set()
    for name in ("tiny-qwen2", "tiny-qwen3"):
        model, pairs, reference, columns = golden(name)
        for which, expected in reference.items():
            case, metric, method = which.split("/")
            scores = attribute(model, pairs[case], method, metric, kv="ungrouped", batch_size=3)
            assert scores.destination_names == columns
            assert scores.mean.dtype == torch.float64
            sign = -1 if metric == "logit_diff" else 1
            scale = 1 if method == "exact" else len(pairs[case])  # the package's second division
            error = (scores.mean - sign * scale * expected).abs().max()
            if method == "EAP" and metric == "kl":
                assert expected.abs().max() < 1e-15 and error < 1e-6  # zero, and noise
            else:
                limit = 1e-6 * scale * expected.abs().max()
                assert error < limit, (name, which, float(error / limit))
            seen.add((metric, method))
    assert len(seen) == 10


@pytest.mark.parametrize("method", ["EAP-IG-inputs", "EAP-IG-activations", "clean-corrupted"])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma3"])
def test_grouped_scores_are_sums_of_ungrouped_ones(name, method):
    model, pairs = tiny_model(name), random_pairs(3)
    grouped = attribute(model, pairs, method, ig_steps=2)
    ungrouped = attribute(model, pairs, method, ig_steps=2, kv="ungrouped")
    columns, size = ungrouped.destination_names, 2
    for index, destination in enumerate(grouped.destination_names):
        members = [destination]
        if ".kv" in destination:
            layer, rest = destination[1:].split(".kv")
            members = [f"a{layer}.h{int(rest[0]) * size + i}{rest[1:]}" for i in range(size)]
        total = ungrouped.per_pair[..., [columns.index(member) for member in members]].sum(-1)
        assert torch.allclose(grouped.per_pair[..., index], total, atol=1e-8)
    assert all(block.attention.num_key_value_groups == size for block in anatomy(model).blocks)


def test_head_outputs_add_up_to_the_attention_output(architecture):
    """Sum over heads of z_h W_O[h], plus the bias, is what o_proj returns."""
    model = tiny_model(architecture)
    parts = anatomy(model)
    seen = {}
    o_proj, H = parts.blocks[1].o_proj, parts.graph.n_heads
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
    e, head = parts.blocks[0].sides[0].head_dim, 2
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


MODELS = {name: tiny_model(name) for name in ARCHITECTURES}


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(ARCHITECTURES),
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    batch_size=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
    method=st.sampled_from(["EAP-IG-inputs", "EAP-IG-activations"]),
    tokens=st.integers(1, 9),
    kv=st.sampled_from(["grouped", "ungrouped"]),
)
def test_result_does_not_depend_on_batch_company_order_or_blocks(
    name, lengths, batch_size, order, method, tokens, kv
):
    """Pairs alone, and the same in shuffled batches with padding, contracted block by block."""
    model, pairs = MODELS[name], random_pairs(len(lengths), tuple(lengths))
    shuffled = list(range(len(pairs)))
    order.shuffle(shuffled)
    options = {"method": method, "metric": "logit_diff", "ig_steps": 2, "kv": kv}
    alone = attribute(model, pairs, batch_size=1, **options).per_pair
    again = Pairs([pairs[index] for index in shuffled])
    together = attribute(
        model, again, batch_size=batch_size, memory_budget=tokens * 2**20, **options
    ).per_pair
    assert torch.allclose(together, alone[shuffled], atol=2e-6 * float(alone.abs().max()))


def test_padded_positions_contribute_nothing():
    """Whatever the padding token is: the scores of a short pair beside a long one don't change."""
    model, pairs = tiny_model("qwen3"), random_pairs(2, (3, 8))
    results = []
    for pad in (0, 17):
        batches = lambda size, pad=pad: Pairs.batches(pairs, size, pad)  # noqa: E731
        copy = Pairs(list(pairs))
        copy.batches = batches
        results.append(attribute(model, copy, batch_size=2, ig_steps=2).per_pair)
    assert torch.equal(*results)


@pytest.mark.parametrize("quadrature", QUADRATURES)
def test_quadrature_weights_and_points(quadrature):
    points = path_points(quadrature, 4)
    assert sum(weight for _, weight in points) == pytest.approx(1)
    assert all(0 <= alpha <= 1 for alpha, _ in points)
    degree = {"left": 0, "right": 0, "midpoint": 1, "gauss-legendre": 7}[quadrature]
    for power in range(degree + 1):  # integrates x^power exactly
        assert sum(w * a**power for a, w in points) == pytest.approx(1 / (power + 1))


def test_completeness_gap_shrinks_with_steps_and_better_quadrature():
    model, pairs = tiny_model("qwen3"), random_pairs(3)
    left = [attribute(model, pairs, ig_steps=m).completeness_gap for m in (1, 10, 200)]
    assert left[2] < 0.02
    assert left[2] < left[1] < left[0]
    gauss = attribute(model, pairs, ig_steps=10, quadrature="gauss-legendre").completeness_gap
    assert gauss < 0.02 < left[1]


def test_many_steps_are_folded_without_a_trace(caplog):
    model, pairs = tiny_model("qwen2"), random_pairs(2)
    whole = attribute(model, pairs, ig_steps=7).per_pair
    caplog.set_level("INFO")
    folded = attribute(model, pairs, ig_steps=7, memory_budget=2**14).per_pair
    assert torch.allclose(whole, folded, atol=1e-10)
    assert "up to 2 steps are kept" in caplog.text
    assert "in blocks of 1 tokens" in caplog.text


def test_positions_and_labels():
    """kl and nll at several positions are means over them; nll is of the next clean tokens."""
    model = tiny_model("llama")
    pair = random_pairs(1, (6,))[0]

    def scores(metric, *positions):
        some = Pairs([Pair(pair.clean_ids, pair.corrupted_ids, positions=positions)])
        return attribute(model, some, metric=metric, ig_steps=2).per_pair

    for metric in ("kl", "nll"):
        both, first, second = scores(metric, 2, 4), scores(metric, 2), scores(metric, -2)
        assert torch.allclose(both, (first + second) / 2, atol=1e-8)
        assert (first - second).abs().max() > 1e-3
    with torch.no_grad():
        logits = model(torch.tensor([pair.clean_ids])).logits[0, 2]
    expected = -logits.log_softmax(-1)[pair.clean_ids[3]]
    some = Pairs([Pair(pair.clean_ids, pair.corrupted_ids, positions=(2,))])
    assert attribute(model, some, metric="nll").metric_clean[0] == pytest.approx(float(expected))
    with pytest.raises(ValueError, match="nll needs the next token"):
        attribute(model, Pairs([Pair((5, 6), (7, 8))]), metric="nll")


def test_low_precision_is_accumulated_in_float32():
    model, pairs = tiny_model("qwen2", torch.float32), random_pairs(2)
    reference = attribute(model, pairs, metric="logit_diff").mean
    low = attribute(model.to(torch.bfloat16), pairs, metric="logit_diff").mean
    assert low.dtype == torch.float32
    assert (low - reference).abs().max() < 0.2 * reference.abs().max()
    assert len(low[low != 0].unique()) > 0.9 * int((low != 0).sum())  # no bfloat16 grid


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


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
@pytest.mark.parametrize("method", ["EAP-IG-inputs", "exact"])
def test_attached_lora_equals_merged(name, method):
    from peft import LoraConfig, get_peft_model

    model = tiny_model(name, torch.float32)
    lora = LoraConfig(
        r=4, target_modules="all-linear", lora_dropout=0.5, fan_in_fan_out=name == "gpt2"
    )
    adapted = get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    options = {"method": method, "metric": "logit_diff", "ig_steps": 2, "kv": "ungrouped"}
    attached = attribute(adapted, random_pairs(), **options).mean
    merged = attribute(adapted.merge_and_unload(), random_pairs(), **options).mean
    plain = attribute(tiny_model(name, torch.float32), random_pairs(), **options).mean
    assert (attached - merged).abs().max() < 1e-5 * merged.abs().max()
    assert (plain - merged).abs().max() > 1e-2 * merged.abs().max()


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


def test_unsupported_architecture_is_refused():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(num_hidden_layers=1, num_attention_heads=2, hidden_size=8, vocab_size=20)
    with pytest.raises(ValueError, match=r"'gpt_neox'; supported: .*gpt2, llama"):
        attribute(GPTNeoXForCausalLM(config), random_pairs())
    model = tiny_model("llama")
    del model.model.layers[1].self_attn.o_proj
    with pytest.raises(ValueError, match=r"layer 1 of LlamaForCausalLM.*'o_proj'; supported: "):
        attribute(model, random_pairs())


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

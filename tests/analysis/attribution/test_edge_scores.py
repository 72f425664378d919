"""Scores of edges against independent oracles: perturbed forward passes and stored scores."""

from __future__ import annotations

import pytest
import torch

from analysis import Pair, Pairs, attribute
from analysis.attribution.metrics import METRICS
from analysis.detection.detect import anatomy
from analysis.prompts.pairs import collate
from tests.support.golden import golden
from tests.support.models import random_pairs, tiny_model
from tests.support.oracle import Oracle


def changes(model, pairs: Pairs, kv: str, metric: str, at: str, step: float) -> torch.Tensor:
    """For every edge, [M(t = step) - M(t = -step)] / (2 step), or M(1) - M(0) if step is 0.

    t scales (corrupted u - clean u), added to the input of v; mean over pairs, [S, D].
    """
    oracle, batch, graph = Oracle(model), collate(list(pairs)), anatomy(model, kv).graph
    expected = torch.zeros(graph.edge_mask.shape, dtype=torch.float64)
    with torch.no_grad():
        clean_logits, clean = oracle.forward(batch.clean, batch, {})
        _, corrupted = oracle.forward(batch.corrupted, batch, {})

        for v, destination in enumerate(graph.destination_names):
            # all edges into v at once, and up and down: the pairs again and again
            below = graph.edge_mask[:, v].nonzero().flatten()
            sources = [graph.source_names[u] for u in below.tolist()]
            moves = torch.stack([corrupted[u] - clean[u] for u in sources]) * batch.mask[..., None]
            ends = torch.stack([step * moves, -step * moves] if step else [moves, 0 * moves])
            many = batch.repeat(2 * len(below))
            ids = many.clean if at == "clean" else many.corrupted
            logits, _ = oracle.forward(ids, many, {destination: ends.flatten(0, 2)})
            base = clean_logits.repeat(2 * len(below), 1)
            up, down = METRICS[metric](logits, base, many).view(2, len(below), -1).mean(-1)
            expected[below, v] = (up - down) / (2 * step or 1)
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
    model, pairs = tiny_model(architecture), random_pairs(3)
    scores = attribute(model, pairs, "exact", "logit_diff", batch_size=2).mean
    expected = changes(model, pairs, "grouped", "logit_diff", "clean", 0)
    assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_scores_equal_the_original_package(every):
    """Stored float64 scores of the EAP-IG package (golden/README.md), to 1e-6 of the largest.

    Of the methods that take seconds, each metric on one of the models, unless it's every case.
    """
    seen = set()
    for name in ("tiny-qwen2", "tiny-qwen3"):
        model, pairs, reference, columns = golden(name)
        for which, expected in reference.items():
            case, metric, method = which.split("/")
            slow = method in ("exact", "EAP-IG-activations")
            if slow and not every and (metric == "kl") != (name == "tiny-qwen2"):
                continue
            size = 4 if slow else 3  # all pairs in one batch, or in two
            scores = attribute(model, pairs[case], method, metric, kv="ungrouped", batch_size=size)
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
    assert all(
        block.heads[0].attention.num_key_value_groups == size for block in anatomy(model).blocks
    )


def test_the_ensemble_is_the_mean_of_its_two_methods():
    model, pairs = tiny_model("qwen3"), random_pairs(2)
    for quadrature in ("left", "midpoint"):
        options = {"metric": "nll", "ig_steps": 2, "quadrature": quadrature}
        names = ("EAP-IG-mean", "EAP-IG-inputs", "EAP-IG-activations")
        found, *both = (attribute(model, pairs, name, **options).per_pair for name in names)
        mean = torch.stack(both).mean(0)
        assert (found - mean).abs().max() < 1e-12 * mean.abs().max()


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

"""The ungrouped graph, where keys and values are not whole outputs of projections of their own."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from analysis import attribute
from analysis.attribution.metrics import metric_named
from analysis.attribution.patching import exact_scores, patched_logits
from analysis.detection.detect import anatomy
from analysis.models.anatomy import Unsupported
from analysis.models.copies import ungrouped
from analysis.models.forward import Sources, run, source_run
from analysis.models.graph import Graph
from analysis.models.preserve import preserved
from analysis.prompts.pairs import collate
from tests.support.families.build import build
from tests.support.families.float64 import Float64
from tests.support.models import random_pairs

KINDS = {
    "phi3": "q, k and v are rows of one projection",
    "minimax_m2": "a norm over all key heads, after the projection",
    "laguna": "a gate's projection runs after the attention; layers of other numbers of heads",
    "qwen3_5_text": "queries and gates head by head; layers of linear attention",
    "mimo_v2_flash": "layers of other numbers of key heads",
}


@cache
def model_of(kind: str) -> Any:
    return build(kind)


def members(grouped: Graph, each: Graph) -> list[list[int]]:
    """For each destination of the grouped graph, those of the ungrouped one that it is made of."""
    names = each.destination_names

    def copies(column: int, name: str) -> list[int]:
        head, _, letter = name.partition("<")
        found = [i for i, other in enumerate(names) if other.endswith(f"<{letter}")]
        return [
            index
            for index in found
            if names[index].split(".")[0] == head.split(".")[0]
            and not bool((each.readers[index] & ~grouped.readers[column]).any())
        ]

    return [
        [names.index(name)] if name in names else copies(column, name)
        for column, name in enumerate(grouped.destination_names)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_head_is_the_sum_of_its_copies(kind):
    """Edges into the copies add up to the shared one's; cut in a circuit, they are it."""
    model, pairs = model_of(kind), random_pairs(2, (6, 5))
    with Float64():
        grouped, each = (anatomy(model, kv) for kv in ("grouped", "ungrouped"))
        scores = attribute(model, pairs, "EAP", "logit_diff", parts=grouped).per_pair
        of_copies = attribute(
            model, pairs, "EAP", "logit_diff", kv="ungrouped", parts=each
        ).per_pair
        parts_of = members(grouped.graph, each.graph)
        assert sorted(sum(parts_of, [])) == list(range(each.graph.n_destinations))
        summed = torch.stack([of_copies[..., own].sum(-1) for own in parts_of], -1)
        assert float((summed - scores).abs().max() / scores.abs().max()) < 1e-12
        copies = next(own for own in parts_of if len(own) > 1)
        assert (of_copies[..., copies[0]] - of_copies[..., copies[1]]).abs().max() > 1e-3

        batch = collate(list(pairs))
        cut = grouped.graph.edge_mask & (torch.rand(grouped.graph.edge_mask.shape) < 0.5)
        cut_each = torch.zeros_like(each.graph.edge_mask)
        for column, own in enumerate(parts_of):
            cut_each[:, own] = cut[:, [column]]
        with preserved(model), torch.no_grad():
            ablated, corrupted = source_run(grouped, batch.corrupted, batch)
            wanted = patched_logits(grouped, batch, cut[None], ablated)
            with ungrouped(each):
                found = patched_logits(each, batch, cut_each[None], ablated)
                empty = patched_logits(each, batch, each.graph.edge_mask[None], ablated)
                clean = run(each, batch.clean, batch)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(empty, corrupted, rtol=0, atol=1e-12)
        assert (found - clean).abs().max() > 1e-3
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["phi3", "minimax_m2"])
def test_patched_copies_follow_their_gradients(kind):
    """The metric with one edge a little towards its corrupted value, for every edge."""
    model, pairs = model_of(kind), random_pairs(1, (5,))
    batch, metric, step = collate(list(pairs)), metric_named("logit_diff"), 1e-6
    with Float64():
        each = anatomy(model, "ungrouped")
        scores = attribute(model, pairs, "EAP", "logit_diff", kv="ungrouped", parts=each).per_pair
        with preserved(model), torch.no_grad(), ungrouped(each):
            clean, logits = source_run(each, batch.clean, batch)
            other, _ = source_run(each, batch.corrupted, batch)

            def near(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                return torch.lerp(a, b, step)

            pair = zip(clean.zr, other.zr, strict=True), zip(clean.nodes, other.nodes, strict=True)
            zr, nodes = ([near(a, b) for a, b in some] for some in pair)
            ablated = Sources(near(clean.embedding, other.embedding), zr, nodes)
            change = exact_scores(each, batch, metric, ablated, logits) / step
    assert (change - scores).abs().max() < 1e-4 * scores.abs().max()


REFUSED = {
    "deepseek_v3": "heads share more than whole keys and values.*use kv=grouped",
    "diffllama": "use kv=grouped",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_where_there_are_no_copies_the_ungrouped_graph_is_refused(kind):
    model = model_of(kind)
    with pytest.raises(Unsupported, match=REFUSED[kind]):
        anatomy(model, "ungrouped")


def test_keys_that_are_shared_elsewhere_than_at_the_interface_are_refused():
    """Copies that an attention does not hand to the interface are nobody's."""
    model = model_of("phi3")
    parts = anatomy(model, "ungrouped")
    attention = parts.blocks[0].heads[0].attention
    plain = type(attention).forward
    try:
        attention.forward = lambda hidden_states, **_: (
            attention.o_proj(attention.qkv_proj(hidden_states)[..., :32]),
            None,
        )
        with pytest.raises(Unsupported, match="layer 0: Phi3Attention shares keys and values and"):
            attribute(model, random_pairs(1), kv="ungrouped", parts=parts)
    finally:
        del attention.forward
    assert attention.forward.__func__ is plain
    with pytest.raises(ValueError, match="anatomy that is given is ungrouped, and kv is grouped"):
        attribute(model, random_pairs(1), parts=parts)

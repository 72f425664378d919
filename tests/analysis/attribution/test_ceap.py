"""CEAP against the sum over the path's segments of every edge's own derivative, edge by edge."""

from __future__ import annotations

import pytest
import torch

from analysis import Pairs, attribute
from analysis.attribution.ceap import segments
from analysis.attribution.metrics import METRICS
from analysis.attribution.quadrature import path_points
from analysis.detection.detect import anatomy
from analysis.prompts.pairs import collate
from tests.support.families.build import build
from tests.support.families.proof import some_pairs
from tests.support.models import random_pairs, tiny_model
from tests.support.oracle import Oracle

STEP = 1e-4


def by_edges(
    model, pairs: Pairs, kv: str, metric: str, path: list[tuple[float, float, float]]
) -> torch.Tensor:
    """Every edge by itself, over the (start, point, end) of a path: mean over pairs, [S, D].

    The derivative along t of the metric, where the embedding is the point's and the input of v gets
    t (s_u(start) - s_u(end)).
    """
    oracle, batch, graph = Oracle(model), collate(list(pairs)), anatomy(model, kv).graph
    total = torch.zeros(graph.edge_mask.shape, dtype=torch.float64)
    with torch.no_grad():
        clean_logits, clean = oracle.forward(batch.clean, batch, {})
        _, corrupted = oracle.forward(batch.corrupted, batch, {})
        shift = corrupted["input"] - clean["input"]

        def written(alpha: float) -> dict[str, torch.Tensor]:
            return oracle.forward(batch.clean, batch, {"input": (1 - alpha) * shift})[1]

        for start, point, end in path:
            one, other = written(start), written(end)
            for v, destination in enumerate(graph.destination_names):
                below = graph.edge_mask[:, v].nonzero().flatten()
                names = [graph.source_names[u] for u in below.tolist()]
                moves = torch.stack([one[u] - other[u] for u in names]) * batch.mask[..., None]
                ends = torch.stack([STEP * moves, -STEP * moves]).flatten(0, 2)
                copies = 2 * len(below)
                many = batch.repeat(copies)
                at = {"input": (1 - point) * shift.repeat(copies, 1, 1), destination: ends}
                logits, _ = oracle.forward(many.clean, many, at)
                found = METRICS[metric](logits, clean_logits.repeat(copies, 1), many)
                up, down = found.view(2, len(below), -1).mean(-1)
                total[below, v] += (up - down) / (2 * STEP)
    return total


@pytest.mark.parametrize(
    ("name", "kv", "metric"),
    [
        ("qwen3", "ungrouped", "logit_diff"),
        ("gemma2", "grouped", "nll"),
        pytest.param("llama", "grouped", "kl", marks=pytest.mark.slow),
        pytest.param("gpt2", "grouped", "kl", marks=pytest.mark.slow),
    ],
)
def test_scores_are_sums_over_the_path_of_each_edges_own_derivatives(name, kv, metric):
    model, pairs = tiny_model(name), random_pairs(2)
    path = [(0.0, 1 / 4, 1 / 2), (1 / 2, 3 / 4, 1.0)]
    settings = {"ig_steps": 2, "quadrature": "midpoint", "kv": kv, "batch_size": 2}
    scores = attribute(model, pairs, "CEAP", metric, **settings).mean
    expected = by_edges(model, pairs, kv, metric, path)
    assert expected.abs().max() > 1e-2
    assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("quadrature", "points"), [("left", (0.0, 0.5)), ("right", (0.5, 1.0))])
def test_the_gradient_may_stand_at_an_end_of_its_segment(quadrature, points):
    model, pairs = tiny_model("gpt2"), random_pairs(1)
    path = [(0.0, points[0], 0.5), (0.5, points[1], 1.0)]
    scores = attribute(model, pairs, "CEAP", ig_steps=2, quadrature=quadrature).mean
    expected = by_edges(model, pairs, "grouped", "kl", path)
    assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()


def test_segments_are_as_long_as_the_weights_and_in_order():
    low = 0.5 - 0.75**0.5 / 3
    found = segments(path_points("gauss-legendre", 2)[::-1])
    assert found == [(0.0, pytest.approx(low), 0.5), (0.5, pytest.approx(1 - low), 1.0)]


def test_one_midpoint_is_that_of_eap_ig():
    model, pairs = tiny_model("gemma3"), random_pairs(3)
    settings = {"metric": "logit_diff", "ig_steps": 1, "quadrature": "midpoint"}
    one, other = (attribute(model, pairs, m, **settings) for m in ("CEAP", "EAP-IG-inputs"))
    torch.testing.assert_close(one.per_pair, other.per_pair, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gpt_neox", "olmo2"])
def test_the_scores_of_every_cut_add_up_to_the_change(kind):
    """Into the logits too, where those of EAP-IG-inputs add up to something else."""
    model, pairs = build(kind, dtype=torch.float64), some_pairs()
    settings = {"metric": "logit_diff", "ig_steps": 10, "quadrature": "midpoint"}
    for method, low, high in (("CEAP", 0, 0.01), ("EAP-IG-inputs", 0.1, 1)):
        scores = attribute(model, pairs, method, **settings)
        change = scores.metric_corrupted - scores.metric_clean
        gap = (scores.per_pair[..., -1].sum(1) - change).abs().max() / change.abs().max()
        assert low <= gap < high

"""Points and weights along the path, and the gap that they leave."""

from __future__ import annotations

import pytest

from analysis import attribute
from analysis.attribution.quadrature import QUADRATURES, path_points
from tests.support.models import random_pairs, tiny_model


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

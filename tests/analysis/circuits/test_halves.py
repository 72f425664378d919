"""The halves of the pairs that circuits are cross-fitted on."""

from __future__ import annotations

import pytest

from analysis.circuits.halves import halves


@pytest.mark.parametrize(
    "groups",
    [[0, 1], [0, 1, 2], list(range(64)), [0, 0, 0, 1, 2], [5, 5, 1, 1, 0, 0, 3], [0] * 9 + [1]],
)
def test_clusters_stand_in_one_half_and_the_halves_are_alike(groups):
    found = halves(groups, 0)
    assert found == halves(groups, 0) and set(found) == {0, 1}
    assert len(set(zip(groups, found, strict=True))) == len(set(groups))
    largest = max(groups.count(group) for group in groups)
    assert abs(found.count(0) - found.count(1)) <= largest


def test_the_seed_draws_other_halves_and_one_cluster_has_none():
    assert halves(range(64), 0) != halves(range(64), 1)
    assert halves([0, 0, 0], 0) is None

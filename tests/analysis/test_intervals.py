"""What is computed in a faster way than a library's is, to the last bit, what the library gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from analysis.heads.changes import Turn, compare, turn
from analysis.intervals import (
    LEVELS,
    ROWS,
    centred_ranks,
    difference_p_values,
    percentile,
    rank_correlation,
)
from tests.support.planted import World, heads_of


def tables() -> dict[str, np.ndarray]:
    """Values [rows, n] with and without ties; more rows than are ranked at a time."""
    plain = np.random.default_rng(0).standard_normal((ROWS + 5, 40)).astype(np.float32)
    odd = np.round(plain, 1)
    odd[3, 5], odd[4, 5], odd[4, 6], odd[5], odd[6, :9] = np.nan, np.inf, -np.inf, 0, -0.0
    return {
        "no ties": plain,
        "ties": np.round(plain, 1),
        "many zeros": np.maximum(plain, 0),
        "odd": odd,
        "float64": plain.astype(float) / 3,
        "one row": plain[:1],
        "one head": plain[:, :1],
    }


@pytest.mark.parametrize("name", tables())
def test_ranks_are_those_of_scipy(name: str) -> None:
    values = tables()[name]
    theirs = stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    np.testing.assert_array_equal(centred_ranks(values), theirs)
    u, v = centred_ranks(values), centred_ranks(values[::-1])
    with np.errstate(invalid="ignore"):
        rho = (u * v).sum(1) / np.sqrt((u**2).sum(1) * (v**2).sum(1))
    np.testing.assert_array_equal(rank_correlation(u, v), rho)


@pytest.mark.parametrize("n", [1, 2, 7, 39, 40, 41, 1000])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_ends_of_intervals_are_numpys_quantiles(n: int, kind: type) -> None:
    draws = (20 * np.random.default_rng(n).standard_normal((1 + n, 4, 3))).astype(kind)
    if kind is not np.int16:
        draws[-1, 0], draws[-1, 1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        theirs = np.quantile(draws[1:].astype(float), LEVELS, axis=0)
        np.testing.assert_array_equal(percentile(torch.from_numpy(draws)).numpy(), theirs)
        flat = percentile(torch.from_numpy(draws[:, 3, 0])).numpy()
    np.testing.assert_array_equal(flat, theirs[:, 3, 0])


@pytest.mark.parametrize("n_pairs", [1, 2, 16])
def test_p_values_are_those_of_students_t(n_pairs: int) -> None:
    after = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).double()
    after[0] = torch.tensor([0.0, 0.1, -0.1, 2.0, -5.0, 40.0, 1e9])
    p = difference_p_values(torch.zeros_like(after), after, n_pairs)
    ratio = (after[0].abs() / after[1:].std(0)).numpy()
    theirs = np.where(ratio == 0, 1, 2 * stats.t.sf(ratio, max(1, n_pairs - 1)))
    np.testing.assert_array_equal(p.numpy(), theirs)


def test_a_turn_is_a_change_without_its_heads() -> None:
    one, two = (heads_of(scores, 50) for scores in World(0, changed=4).scores(16))
    for before, after in ((one, two), (one, one), (one, two.bare)):
        change = vars(compare(before, after, 0.05))
        found = vars(turn(before, after, 0.05))
        assert set(found) == set(Turn.__dataclass_fields__)
        assert repr(found) == repr({name: change[name] for name in found})

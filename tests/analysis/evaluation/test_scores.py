"""pass@k, intervals and tests of paired differences, against answers known otherwise."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from analysis.evaluation.scores import (
    bootstrap,
    compare,
    mean,
    pass_at_k,
    rank_test,
    score,
    sign_test,
    unseen,
    within_first,
)


def table(*rows: str) -> np.ndarray:
    """`"1100"` for each problem -> bool [1, P, n]."""
    return np.array([[[mark == "1" for mark in row] for row in rows]])


def test_pass_at_k_is_the_share_of_all_subsets():
    """The estimator of Chen et al., against the enumeration that it stands for."""
    right = table("110000", "000000", "111111", "100110")
    for k in range(1, 7):
        wanted = np.mean(
            [[row[list(chosen)].any() for chosen in combinations(range(6), k)] for row in right[0]]
        )
        assert pass_at_k(right, k)[0] == pytest.approx(wanted)
    assert pass_at_k(right, 1)[0] == pytest.approx(right.mean())
    with pytest.raises(ValueError, match="pass@7 needs 7 samples"):
        pass_at_k(right, 7)


def test_known_values():
    """n=10, c=3: 1 - C(7,5)/C(10,5) = 0.91667; the first samples alone are another matter."""
    right = table("0000000111")
    assert pass_at_k(right, 5)[0] == pytest.approx(1 - 21 / 252)
    assert within_first(right, 5)[0] == 0
    assert within_first(right, 8)[0] == 1
    assert within_first(table("1000", "0100", "0000"), 1)[0] == pytest.approx(1 / 3)


def test_sign_test_is_mcnemars_with_one_sample():
    """8 problems lost, 1 won, 11 the same: the exact McNemar p is 2 (C(9,0)+C(9,1))/2^9."""
    differences = np.array([-1.0] * 8 + [1.0] + [0.0] * 11)
    assert sign_test(differences) == pytest.approx(2 * (1 + 9) / 2**9)
    assert sign_test(np.zeros(20)) == 1.0
    assert sign_test(np.array([-1.0] * 6)) == pytest.approx(2 / 2**6)


def test_the_sign_test_rejects_at_its_rate():
    """No difference: p <= 0.05 in at most 5 % of worlds (and in some, else it tests nothing)."""
    generator = np.random.default_rng(0)
    rejected = 0
    for _ in range(2000):
        rate = generator.beta(1, 1, 40)
        a, b = (generator.random(40) < rate for _ in range(2))
        rejected += sign_test(a.astype(float) - b) <= 0.05
    assert 0.005 < rejected / 2000 < 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def covered(problems: int, samples: int, worlds: int, difference: bool) -> float:
    """How often the interval holds the truth, for problems of rates drawn from Beta(1, 1).

    The second condition solves each problem at 0.7 of the first one's rate.
    """
    generator = np.random.default_rng(problems + samples)
    truth, hits = (-0.3 * 0.5 if difference else 0.5), 0
    for world in range(worlds):
        rates = generator.beta(1, 1, problems)
        common = generator.random((problems, samples))  # conditions share their random numbers
        right = np.stack([common < rates[:, None], common < 0.7 * rates[:, None]])
        values = bootstrap(right, {"mean": mean}, 300, world)["mean"]
        found = values[:, 1] - values[:, 0] if difference else values[:, 0]
        low, high = np.quantile(found[1:], [0.025, 0.975])
        hits += low <= truth <= high
    return hits / worlds


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize(("problems", "samples"), [(60, 1), (40, 4)])
def test_intervals_cover(problems, samples, difference):
    """At least at the nominal rate, less sampling error and what 40 problems cost a percentile."""
    worlds = 300
    error = 3 * (0.95 * 0.05 / worlds) ** 0.5
    assert 0.95 - error - 0.01 < covered(problems, samples, worlds, difference) <= 1.0


@pytest.mark.parametrize("k", [4, 2])
def test_intervals_of_pass_at_k_cover(k):
    """At k = n above all, where samples drawn with repetitions would lose the only right one."""
    generator, worlds, hits = np.random.default_rng(k), 300, 0
    grid = (np.arange(20_000) + 0.5) / 20_000
    truth = float((1 - (1 - stats.beta.ppf(grid, 0.5, 0.8)) ** k).mean())
    for world in range(worlds):
        rates = generator.beta(0.5, 0.8, (60, 1))
        found = score(generator.random((60, 4)) < rates, [k], 0, {}, 300, world)
        for estimate in (found.pass_at_k[k], found.first_k[k]):
            assert estimate.low <= estimate.value <= estimate.high
        hits += found.pass_at_k[k].low <= truth <= found.pass_at_k[k].high
    error = 3 * (0.95 * 0.05 / worlds) ** 0.5
    assert 0.95 - error - 0.01 < hits / worlds <= 1.0


def test_problems_that_all_came_out_the_same_have_an_interval():
    """0 of 30: Clopper and Pearson's upper end; a bootstrap would say that it is surely 0."""
    wanted = stats.beta.ppf(0.975, 1, 30)
    assert unseen(30) == pytest.approx(wanted)
    nothing = score(np.zeros((30, 2), dtype=bool), [2], 0, {}, resamples=50)
    assert (nothing.pass_at_1, nothing.low) == (0, 0)
    assert nothing.high == pytest.approx(wanted)
    assert nothing.pass_at_k[2].high == pytest.approx(wanted)
    everything = score(np.ones((30, 1), dtype=bool), [1], 0, {}, resamples=50)
    assert (everything.high, everything.low) == (1, pytest.approx(1 - wanted))


def test_differences_stay_within_what_they_can_be():
    """Three problems that nobody solves: at most +-1 against random heads, +-2 against the base."""
    names = ["none", "intervention", "random-1", "random-2", "base", "base+intervention"]
    found = compare({name: np.zeros((3, 2), dtype=bool) for name in names}, resamples=50)
    for name in ("effect", "control", "effect_minus_control", "base_effect"):
        assert (found[name].low, found[name].high) == (-unseen(3), unseen(3))
    assert found["effect_minus_base"].high == 2 * unseen(3)


def planted(problems: int, rates: dict[str, float], seed: int = 0) -> dict[str, np.ndarray]:
    """One sample of each problem; conditions share the random number of a problem."""
    common = np.random.default_rng(seed).random((problems, 1))
    return {name: common < rate for name, rate in rates.items()}


def test_an_effect_is_told_from_that_of_random_heads():
    random = {f"random-{i}": 0.78 + 0.004 * i for i in range(1, 11)}
    right = planted(100, {"none": 0.8, "intervention": 0.1, **random})
    found = compare(right, resamples=500)
    assert found["effect"].value == pytest.approx(
        right["intervention"].mean() - right["none"].mean()
    )
    assert found["effect"].high < -0.5
    assert found["effect"].p_value < 1e-10
    control = np.mean([right[name].mean() for name in random]) - right["none"].mean()
    assert found["control"].value == pytest.approx(control)
    assert found["effect_minus_control"].value == pytest.approx(found["effect"].value - control)
    assert found["effect_minus_control"].high < -0.5
    assert found["effect_minus_control"].p_value == pytest.approx(1 / 11)


def test_an_effect_that_random_heads_have_too_is_none():
    random = {f"random-{i}": 0.2 + 0.03 * i for i in range(1, 11)}
    found = compare(planted(100, {"none": 0.8, "intervention": 0.35, **random}), resamples=500)
    assert found["effect"].high < 0  # alone it would look like one
    assert found["effect_minus_control"].low < 0 < found["effect_minus_control"].high
    assert found["effect_minus_control"].p_value > 0.2


def test_the_base_is_taken_off():
    rates = {"none": 0.8, "intervention": 0.3, "base": 0.6, "base+intervention": 0.5}
    right = planted(200, rates)
    found = compare(right, resamples=300)
    shares = {name: table.mean() for name, table in right.items()}
    assert found["base_effect"].value == pytest.approx(shares["base+intervention"] - shares["base"])
    assert found["effect_minus_base"].value == pytest.approx(
        found["effect"].value - found["base_effect"].value
    )
    assert found["effect_minus_base"].high < 0
    assert "control" not in found


def test_nothing_changed_is_not_certainty():
    right = planted(20, {"none": 0.5, "intervention": 0.5})
    effect = compare(right, resamples=100)["effect"]
    assert (effect.value, effect.p_value) == (0, 1)
    assert (effect.low, effect.high) == (-unseen(20), unseen(20))


def test_differences_of_differences_reach_two():
    """Effect -1 and base effect +1 in all of 20 problems: -2, and an interval that holds it."""
    yes, no = np.ones((20, 1), dtype=bool), np.zeros((20, 1), dtype=bool)
    right = {"none": yes, "intervention": no, "base": no, "base+intervention": yes}
    found = compare(right, resamples=50)["effect_minus_base"]
    assert (found.value, found.low) == (-2, -2)
    assert found.high == pytest.approx(-2 + 4 * unseen(20))


def test_rank_among_random_sets():
    others = np.array([-0.1, 0.02, -0.3, 0.05])
    assert rank_test(-0.2, others) == pytest.approx(2 / 5)  # one other is as large
    assert rank_test(0.5, others) == pytest.approx(1 / 5)
    assert rank_test(0.0, others) == 1.0

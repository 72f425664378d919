"""pass@1, pass@k and their differences, with intervals and exact tests.

Right answers are a table of booleans [problems, samples] for each condition (a model with or
without an intervention); conditions that are compared share problems and samples' seeds.

    pass@1      mean over problems of the share of right samples
    pass@k      mean over problems of 1 - C(n - c, k) / C(n, k), with c right of n samples; unbiased
                (Chen et al. 2021, arXiv 2107.03374)
    first k     share of problems with a right answer among the first k samples

Intervals are 95 % percentile bootstraps in two stages: problems are drawn, then samples within each
problem; the draws are shared by all conditions, so that differences are paired. With one sample the
second stage is empty. Drawing samples anew adds to a spread that already holds their noise, so
with several samples the intervals are a little too wide (docs/LOG.md has the coverage). For pass@k
and the first k there is no second stage: a resample with repetitions holds fewer different samples,
so that its pass@k would be too small; the spread over problems holds the samples' noise already.
Where all problems came out the same, a bootstrap has no spread at all; then the interval is that of
Clopper and Pearson (1934) for 0 (or all) of so many problems, and for a difference what follows.
Copies of one problem, or one, can't be resampled: then there is no interval and no test of effects.

The test of a difference is the exact sign test over problems (those without a difference do not
count); with one sample that is McNemar's exact test.

Shape legend: C conditions, P problems, n samples, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from scipy import stats

from analysis.intervals import FEWEST, Estimate, percentile

RESAMPLES = 2000
CHUNK = 2**19  # answers of resamples at a time
Statistic = Callable[[np.ndarray], np.ndarray]  # right [..., P, n] -> [...]


def pass_at_k(right: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of each condition: bool [..., P, n] -> [...].

    Raises:
        ValueError: k is not in 1 .. n.
    """
    n = right.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs {k} samples of each problem at least, and there are {n}")
    failing = np.array([comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    found: np.ndarray = 1 - failing[right.sum(-1)].mean(-1)
    return found


def within_first(right: np.ndarray, k: int) -> np.ndarray:
    """Share of problems solved within the first k samples: bool [..., P, n] -> [...]."""
    found: np.ndarray = right[..., :k].any(-1).mean(-1)
    return found


def mean(right: np.ndarray) -> np.ndarray:
    """pass@1 of each condition: bool [..., P, n] -> [...]."""
    found: np.ndarray = right.mean((-2, -1))
    return found


def bootstrap(
    right: np.ndarray,
    statistics: Mapping[str, Statistic],
    resamples: int = RESAMPLES,
    seed: int = 0,
    within: bool = True,
) -> dict[str, np.ndarray]:
    """Each statistic of the data (row 0) and of resamples: [1 + R, C] each.

    within: draw samples within the drawn problems, too. Without resamples only row 0.
    """
    generator = np.random.default_rng(seed)
    _, problems, samples = right.shape
    rows: dict[str, list[np.ndarray]] = {name: [of(right)] for name, of in statistics.items()}
    step = max(1, CHUNK // right.size)
    for start in range(0, resamples, step):
        drawn, columns = [], []
        for _ in range(start, min(start + step, resamples)):
            drawn.append(generator.integers(problems, size=problems))
            if within:
                columns.append(generator.integers(samples, size=(problems, samples)))
        chosen = np.stack(columns) if within else np.arange(samples)
        resampled = right[:, np.stack(drawn)[..., None], chosen]  # [C, some of R, P, n]
        for name, of in statistics.items():
            rows[name].extend(of(resampled).T)
    return {name: np.stack(values) for name, values in rows.items()}


def _resamples(right: np.ndarray, wanted: int, distinct: int | None) -> int:
    """As many as are wanted of right [C, P, n], or none of copies of one problem."""
    problems = right.shape[1] if distinct is None else distinct
    return wanted if problems >= FEWEST else 0


def unseen(problems: int) -> float:
    """Largest share that is compatible, at 97.5 %, with none in so many problems."""
    return float(1 - (0.025) ** (1 / problems))


def share(values: np.ndarray, per_problem: np.ndarray) -> Estimate:
    """A share in [0, 1] with its interval; see the top for problems that all came out the same."""
    low, high = percentile(values).tolist()
    if len(values) == 1:
        return Estimate(float(values[0]), low, high)
    if (per_problem == 0).all():
        high = max(high, unseen(len(per_problem)))
    if (per_problem == 1).all():
        low = min(low, 1 - unseen(len(per_problem)))
    return Estimate(float(values[0]), low, high)


def sign_test(differences: np.ndarray) -> float:
    """Two-sided exact sign test of per-problem differences [P]; 1 if there is none."""
    up, down = int((differences > 0).sum()), int((differences < 0).sum())
    if up + down == 0:
        return 1.0
    return float(stats.binomtest(up, up + down).pvalue)


@dataclass(frozen=True)
class Difference:
    """A difference of pass@1 with its interval, and the p-value of the test, if there is one."""

    value: float
    low: float
    high: float
    p_value: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def difference(
    values: np.ndarray, per_problem: np.ndarray, p_value: float | None = None, most: float = 1
) -> Difference:
    """A paired difference with its interval: its values [1 + R], and those of problems [P].

    most: the largest difference that a problem can have.
    """
    low, high = percentile(values).tolist()
    if len(values) == 1:
        return Difference(float(values[0]), low, high)
    if (per_problem == per_problem[0]).all():  # others, of which there may be so many, are +-most
        others, value = unseen(len(per_problem)), float(per_problem[0])
        low, high = value - others * (most + value), value + others * (most - value)
    return Difference(float(values[0]), low, high, p_value)


def compare(
    right: Mapping[str, np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
    distinct: int | None = None,
) -> dict[str, Difference]:
    """What an intervention does, what the controls do, and the difference of the two.

    `right` is [P, n] by condition: `none`, `intervention`, `random-1` .., `base` and
    `base+intervention`, of which only the first two must be there.

        effect                 intervention - none
        control                mean over the random sets of (random - none); the sets are drawn
                               anew in every resample as well
        effect_minus_control   the difference of these
        base_effect            base+intervention - base
        effect_minus_base      effect - base_effect

    p_value of effect and base_effect: the sign test over problems. Of effect_minus_control: that of
    a set among random ones, (1 + the number of random sets whose effect is at least as large in
    absolute value) / (1 + their number), so never below that. Of the others: None.

    distinct: how many of the problems differ; None is all. With one there is no interval and no p.
    """
    names = list(right)
    table = np.stack([right[name] for name in names])
    resamples = _resamples(table, resamples, distinct)
    shares = dict(zip(names, table.mean(-1), strict=True))  # [P] each
    drawn = bootstrap(table, {"mean": mean}, resamples, seed)["mean"]
    sampled = dict(zip(names, drawn.T, strict=True))  # [1 + R] each

    def tested(a: str, b: str) -> Difference:
        of_problems = shares[a] - shares[b]
        return difference(sampled[a] - sampled[b], of_problems, sign_test(of_problems))

    found = {"effect": tested("intervention", "none")}
    effect = sampled["intervention"] - sampled["none"]
    of_problems = shares["intervention"] - shares["none"]
    if sets := [name for name in names if name.startswith("random-")]:
        effects = np.stack([sampled[name] - sampled["none"] for name in sets], 1)  # [1 + R, sets]
        control = _control(effects, seed)
        of_control = np.mean([shares[name] - shares["none"] for name in sets], 0)
        found["control"] = difference(control, of_control)
        p = rank_test(float(effect[0]), effects[0])
        found["effect_minus_control"] = difference(effect - control, of_problems - of_control, p)
    if "base" in right:
        found["base_effect"] = tested("base+intervention", "base")
        there = sampled["base+intervention"] - sampled["base"]
        of_base = shares["base+intervention"] - shares["base"]
        found["effect_minus_base"] = difference(effect - there, of_problems - of_base, most=2)
    return found


def rank_test(effect: float, others: np.ndarray) -> float:
    """(1 + the number of others [sets] at least as large in absolute value) / (1 + all others)."""
    return float((1 + (np.abs(others) >= abs(effect) - 1e-12).sum()) / (1 + len(others)))


def _control(effects: np.ndarray, seed: int) -> np.ndarray:
    """Mean effect of the random sets [1 + R, sets], drawn anew in each resample: [1 + R]."""
    number, sets = effects.shape
    drawn = np.random.default_rng([seed, 1]).integers(sets, size=(number, sets))
    drawn[0] = np.arange(sets)
    found: np.ndarray = np.take_along_axis(effects, drawn, 1).mean(1)
    return found


@dataclass(frozen=True)
class Score:
    """pass@1 with its interval, pass@k and success within k by k, and what went wrong how often."""

    pass_at_1: float
    low: float
    high: float
    problems: int
    samples: int
    truncated: int
    failures: dict[str, int]
    pass_at_k: dict[int, Estimate]
    first_k: dict[int, Estimate]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score(
    right: np.ndarray,
    ks: Sequence[int],
    truncated: int,
    failures: Mapping[str, int],
    resamples: int = RESAMPLES,
    seed: int = 0,
    distinct: int | None = None,
) -> Score:
    """The score of one condition from its right answers [P, n].

    distinct: how many of the problems differ; None is all. With one there are no intervals.

    Raises:
        ValueError: a k is not in 1 .. n.
    """
    table = right[None]
    resamples = _resamples(table, resamples, distinct)
    wanted: dict[str, Statistic] = {}
    for k in ks:
        wanted[f"pass@{k}"] = lambda x, k=k: pass_at_k(x, k)  # type: ignore[misc]
        wanted[f"first {k}"] = lambda x, k=k: within_first(x, k)  # type: ignore[misc]
    of_mean = bootstrap(table, {"mean": mean}, resamples, seed)
    of_k = bootstrap(table, wanted, resamples, seed, within=False)
    sampled = {name: values[:, 0] for name, values in (of_mean | of_k).items()}
    solved = right.mean(-1)
    one = share(sampled["mean"], solved)
    return Score(
        pass_at_1=one.value,
        low=one.low,
        high=one.high,
        problems=len(right),
        samples=right.shape[1],
        truncated=truncated,
        failures=dict(failures),
        pass_at_k={k: share(sampled[f"pass@{k}"], solved) for k in ks},
        first_k={k: share(sampled[f"first {k}"], solved) for k in ks},
    )

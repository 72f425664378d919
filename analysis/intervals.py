"""Intervals and tests that the head statistics share; scipy and numpy do the arithmetic.

A table holds an estimate in row 0 and R resamples of it in the rows below. Fewer than FEWEST
distinct things (pairs, problems) can't be resampled: every draw is the same, and a spread of 0 is
not certainty. Their tables are cut to row 0, R = 0, and what rests on resamples is then NaN: both
ends of an interval, a p-value, a null. Nothing is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from scipy import special, stats

LEVELS = (0.025, 0.975)
FEWEST = 2  # distinct things that can be resampled
ROWS = 32  # of ranks at a time, which fit into the processor's cache
T = TypeVar("T", torch.Tensor, np.ndarray)


def resamples_of(table: T, distinct: int) -> T:
    """A table [1+R, ...], cut to its row 0 if fewer than FEWEST distinct things were resampled."""
    return table if distinct >= FEWEST else table[:1]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def minus(self, amount: float) -> Estimate:
        """The estimate of the difference from a constant."""
        return Estimate(self.value - amount, self.low - amount, self.high - amount)


def bare(value: float) -> Estimate:
    """A number without an interval."""
    return Estimate(value, np.nan, np.nan)


def percentile(values: torch.Tensor | np.ndarray, skip_nan: bool = False) -> torch.Tensor:
    """Percentile bootstrap: rows 1 .. R of [1+R, ...] -> low and high [2, ...], float64.

    skip_nan: of the resamples that define a value; else one that does not makes both ends NaN.
    Both ends are NaN without resamples.
    """
    if len(values) == 1:
        return torch.full((2, *values.shape[1:]), torch.nan, dtype=torch.float64)
    return torch.from_numpy(_ends(torch.as_tensor(values)[1:].numpy(), skip_nan))


def _ends(resamples: np.ndarray, skip_nan: bool) -> np.ndarray:
    """Both ends of the interval of resamples [R, ...]: float64 [2, ...].

    As numpy's quantile has them, which sorts in float64 and column by column.
    """
    if skip_nan:
        skipping: np.ndarray = np.nanquantile(resamples.astype(float), LEVELS, axis=0)
        return skipping
    ordered = np.array(np.moveaxis(resamples, 0, -1), order="C")
    ordered.sort(axis=-1)
    last = len(resamples) - 1
    found = []
    for at in (last * level for level in LEVELS):
        below, above = (ordered[..., i].astype(float) for i in (int(at), min(int(at) + 1, last)))
        share, step = at - int(at), above - below
        found.append(below + step * share if share < 0.5 else above - step * (1 - share))
    undefined = np.isnan(ordered[..., -1])  # they are sorted to the end
    return np.where(undefined, np.nan, np.stack(found))


def estimate(values: torch.Tensor) -> Estimate:
    """Row 0 of [1+R] with the percentile bootstrap interval of the others."""
    low, high = percentile(values).tolist()
    return Estimate(float(values[0]), low, high)


def estimate_of_set(values: torch.Tensor, low: float = 0.0, high: float = np.inf) -> Estimate:
    """Row 0 of [1+R] with an interval fit for numbers that are read off thresholded sets.

    Resampling adds noise to memberships that are already noisy, so such a number is biased by
    resampling as it was by measuring, and the percentile interval (which keeps the bias) and the
    basic interval (which mirrors it) each fail on one side. This is the hull of both, within
    [low, high], the numbers that are possible at all. docs/LOG.md has the coverage measured.
    """
    plain = estimate(values)
    if len(values) == 1:
        return plain
    mirrored = (2 * plain.value - plain.high, 2 * plain.value - plain.low)
    ends = (min(plain.low, mirrored[0]), max(plain.high, mirrored[1]))
    return Estimate(plain.value, *(float(np.clip(end, low, high)) for end in ends))


def difference_p_values(before: torch.Tensor, after: torch.Tensor, distinct: int) -> torch.Tensor:
    """Two-sided p-values of after - before, paired by resample: [1+R, M] each -> [M].

    Row 0 is the estimate; its standard error is that of the resamples, and the ratio is referred to
    Student's t with distinct - 1 degrees of freedom, so that p is not bounded by 1 / R, which no
    correction for hundreds of heads would survive. A difference without any spread has p 0, none 1.
    Without resamples p is NaN.
    """
    if len(after) == 1:
        return torch.full(after.shape[1:], torch.nan, dtype=torch.float64)
    change = (after - before).double()
    error = change[1:].std(0)
    ratio = change[0].abs() / error.clamp_min(1e-12)
    p = torch.from_numpy(2 * special.stdtr(max(1, distinct - 1), -ratio.numpy()))
    return torch.where(change[0] == 0, torch.ones_like(p), p)


def discoveries(p_values: torch.Tensor, q: float) -> torch.Tensor:
    """Which of [M] p-values Benjamini and Hochberg (1995) reject at false-discovery rate q.

    None of p-values that are NaN, which is what all are without resamples.
    """
    if p_values.isnan().any():
        return torch.zeros_like(p_values, dtype=torch.bool)
    return torch.from_numpy(stats.false_discovery_control(p_values.numpy()) <= q)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho of each row of [rows, n] with its counterpart; NaN if one is constant."""
    return rank_correlation(centred_ranks(a), centred_ranks(b))


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks in each row of [rows, n], ties averaged, less their mean; NaN in a row that has a NaN.

    As scipy's rankdata has them, which takes twice the time for the tables of resamples.
    """
    found = np.empty(values.shape)
    for start in range(0, len(values), ROWS):
        found[start : start + ROWS] = _centred_ranks(values[start : start + ROWS])
    return found


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    rows, n = values.shape
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    differs = np.ones(values.shape, dtype=bool)  # from the value before it
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=differs[:, 1:])
    found = np.empty(values.shape)
    if differs.all():  # no ties; a single NaN differs as well
        np.put_along_axis(found, order, (np.arange(n) - (n - 1) / 2)[None], axis=1)
    else:
        first = np.flatnonzero(differs)
        ties = np.diff(first, append=values.size)
        places = (order + n * np.arange(rows)[:, None]).ravel()
        found.ravel()[places] = np.repeat(first % n + (ties - n) / 2, ties)
    found[np.isnan(ordered[:, -1])] = np.nan
    return found


def rank_correlation(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """`spearman` of rows whose `centred_ranks` are known.

    Sums of halves and quarters are exact, in whatever order they are summed.
    """
    uv, uu, vv = (np.einsum("ij,ij->i", a, b) for a, b in ((u, v), (u, u), (v, v)))
    with np.errstate(invalid="ignore"):
        found: np.ndarray = uv / np.sqrt(uu * vv)
    return found


@dataclass(frozen=True)
class Association:
    """Spearman's rho of two series with its interval and p-value; NaN where undefined."""

    rho: Estimate
    p_value: float
    n: int


def association(
    x: list[float], y: list[float], resamples: int = 2000, seed: int = 0
) -> Association:
    """Spearman's rank correlation of two series over the same checkpoints.

    The p-value compares |rho| with that of every circular shift of y against x, which keeps the
    autocorrelation of both (two trends always correlate); it is at least 1 / n, so a few
    checkpoints can't show anything. The interval is a circular block bootstrap (Politis and Romano
    1992) with blocks of about n^(1/3) checkpoints. Fewer than 4 points, or a constant series: NaN.
    """
    n = len(x)
    nothing = Association(Estimate(np.nan, np.nan, np.nan), np.nan, n)
    if n < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return nothing
    a, b = np.asarray(x, float), np.asarray(y, float)

    value = float(stats.spearmanr(a, b).statistic)
    shifted = spearman(np.tile(a, (n, 1)), np.stack([np.roll(b, shift) for shift in range(n)]))
    p_value = float(np.mean(np.abs(shifted) >= abs(value) - 1e-12))
    generator, length = np.random.default_rng(seed), max(1, round(n ** (1 / 3)))
    starts = generator.integers(n, size=(resamples, -(-n // length)))
    draws = ((starts[:, :, None] + np.arange(length)) % n).reshape(resamples, -1)[:, :n]
    low, high = _ends(spearman(a[draws], b[draws]), skip_nan=True)
    return Association(Estimate(value, float(low), float(high)), p_value, n)

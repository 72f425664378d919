"""Counts of heads over several seeds of one training, with intervals over the seeds.

The seeds are what is drawn here, and not the pairs: an interval over pairs says how well one run
was measured, and nothing of another run of the same recipe. Heads are counted and never compared by
name, as head 3 of one seed is no head of another. Of fewer than FEWEST seeds there is no interval,
nor where all seeds have the same number, which says nothing of their spread.

Two groups of seeds are compared by Welch's t: their means, and the interval of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy import stats

from analysis.comparison.courses import Course, Place, shared_range
from analysis.intervals import Estimate, bare
from analysis.trajectories.run import Run

FEWEST = 3
COUNTED = {
    "in_circuit": "heads in the circuit",
    "emergent": "emergent",
    "emergent_called": "  called",
    "emergent_chance": "  by chance",
    "pruned": "pruned",
    "pruned_called": "  called",
    "pruned_chance": "  by chance",
    "retained": "retained",
    "jaccard": "Jaccard with the base",
    "faithfulness": "faithfulness",
    "kl": "KL from base",
    "score": "held-out pass@1",
}


@dataclass(frozen=True)
class Seed:
    """One run: its label, the seed of its training, where it was read, and its numbers by COUNTED.

    Where the seeds are matched only counts are known, at `place`.
    """

    label: str
    seed: int | None
    place: Place
    numbers: dict[str, float]


@dataclass(frozen=True)
class Seeds:
    """A group of seeds. means: of each number that all of them have, with its interval."""

    seeds: list[Seed]
    means: dict[str, Estimate]


@dataclass(frozen=True)
class Contrast:
    """The first group less the second, of each number of both; p: of Welch's t, NaN without."""

    difference: dict[str, Estimate]
    p_value: dict[str, float]


@dataclass(frozen=True)
class SeedFindings:
    """What a comparison over seeds found. value: of the measure, where the seeds are matched."""

    measure: str
    value: float | None
    groups: list[Seeds]
    contrast: Contrast | None
    notes: list[str]


def mean_over_seeds(
    values: Sequence[float], within: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """The mean with Student's t interval, cut to what is possible; without one as said above."""
    value = math.fsum(values) / len(values)
    if len(values) < FEWEST or len(set(values)) == 1:
        return bare(value)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval()
    return Estimate(value, max(within[0], float(low)), min(within[1], float(high)))


def contrast(one: Seeds, two: Seeds) -> Contrast:
    """The numbers of the first group less those of the second."""
    differences, p_values = {}, {}
    for name in one.means:
        if name not in two.means:
            continue
        a, b = ([seed.numbers[name] for seed in group.seeds] for group in (one, two))
        value = one.means[name].value - two.means[name].value
        if min(len(a), len(b)) < FEWEST or len({*a}) == len({*b}) == 1:
            differences[name], p_values[name] = bare(value), math.nan
            continue
        test = stats.ttest_ind(a, b, equal_var=False)
        low, high = test.confidence_interval()
        differences[name] = Estimate(value, float(low), float(high))
        p_values[name] = float(test.pvalue)
    return Contrast(differences, p_values)


def check_seeds(groups: Sequence[Sequence[Run]]) -> list[str]:
    """What has to be said of runs that are compared as seeds.

    Raises:
        ValueError: one is named twice, or two differ in settings or graph, or are the same run.
    """
    runs = [run for group in groups for run in group]
    for run in runs:
        if len(run.points) < 2:
            raise ValueError(f"{run.path} has no record after its base, so no head has changed yet")
    first = runs[0].points[-1].record
    for one, two in combinations(runs, 2):
        if one.path.resolve() == two.path.resolve():
            raise ValueError(f"{one.path} is named twice; give each seed's own run")
        if (same := _weights(one)) is not None and same == _weights(two):
            raise ValueError(
                f"{one.path} and {two.path} end with the same weights ({same}): they are one seed"
            )
    for run in runs[1:]:
        record = run.points[-1].record
        for what in ("settings", "graph"):
            if getattr(record, what) != getattr(first, what):
                raise ValueError(
                    f"{runs[0].path} and {run.path} differ in {what} ({getattr(first, what)} and "
                    f"{getattr(record, what)}), so their counts can't be compared; track both with "
                    "the same settings"
                )
    notes = []
    if len({run.points[-1].record.pairs_hash for run in runs}) > 1:
        notes.append("The runs were measured on different pairs, which adds to the spread.")
    for group in groups:
        known = [run.file.seed for run in group if run.file.seed is not None]
        if len(set(known)) < len(known):
            notes.append(f"Two runs of {', '.join(run.label for run in group)} have one seed.")
        steps = {run.points[-1].step for run in group}
        if len(steps) > 1:
            listed = ", ".join(map(str, sorted(steps)))
            notes.append(f"The last records of a group are of different steps: {listed}.")
    return notes


def _weights(run: Run) -> str | None:
    origin = run.points[-1].record.origin.get("model") or {}
    weights, adapter = origin.get("weights"), origin.get("adapter")
    return None if weights is None else f"{weights}{f' with {adapter}' if adapter else ''}"


def compare_seeds(
    groups: Sequence[Sequence[Run]], measure: str | None = None, at: float | None = None
) -> SeedFindings:
    """The numbers of one group of seeds or two, at their last records or at a matched value.

    measure: of analysis/comparison/courses.py, or None.  at: its value; None: the largest that all
    runs have.

    Raises:
        ValueError: as `check_seeds`; or the runs do not all have the value.
    """
    notes = check_seeds(groups)
    if measure is None:
        found = [[_at_the_end(run) for run in group] for group in groups]
        value = None
    else:
        courses = [[Course.of(run, measure) for run in group] for group in groups]
        low, high = shared_range([course for group in courses for course in group])
        value = high if at is None else at
        if not low <= value <= high:
            raise ValueError(f"at={value} is not between {low:.3g} and {high:.3g}, which all have")
        found = [[_at(course, value) for course in group] for group in courses]
        notes = [note for note in notes if "different steps" not in note]
    summed = [Seeds(group, _means(group)) for group in found]
    two = contrast(summed[0], summed[1]) if len(summed) > 1 else None
    return SeedFindings(measure or "last", value, summed, two, notes)


def _means(seeds: Sequence[Seed]) -> dict[str, Estimate]:
    """Of the numbers that all seeds have."""
    names = [name for name in COUNTED if all(name in seed.numbers for seed in seeds)]
    found = {}
    for name in names:
        most = 1.0 if name in ("jaccard", "score") else math.inf
        found[name] = mean_over_seeds([seed.numbers[name] for seed in seeds], (0.0, most))
    return found


def _at_the_end(run: Run) -> Seed:
    point = run.points[-1]
    change, record = point.change, point.record
    numbers = {name: point.counts[name].value for name in ("in_circuit", "retained")}
    for name in ("emergent", "pruned"):
        numbers[name] = point.counts[name].value
        if change.is_tested:
            numbers[f"{name}_called"] = float(change.called[name].sum())
            numbers[f"{name}_chance"] = change.null[name][0]
    numbers |= {"jaccard": change.jaccard.value, "faithfulness": record.faithfulness().value}
    if (kl := record.kl_from_base()) is not None:
        numbers["kl"] = kl.value
    scores = {row.step: row.evaluation for row in run.rows}
    if (evaluation := scores.get(point.step)) is not None:
        numbers["score"] = float(evaluation["pass_at_1"])
    place = Place(point.step, point.step, 0.0, point.step, bare(float(point.step)), 1)
    return Seed(run.label, run.file.seed, place, _known(numbers))


def _at(course: Course, value: float) -> Seed:
    place = course.find(value)
    assert place is not None, "the value lies in the range that all have"
    reading = course.read(place)
    numbers = {name: float(rows[0]) for name, rows in reading.sizes.items()}
    numbers |= {f"{name}_called": called for name, called in reading.called.items()}
    return Seed(course.run.label, course.run.file.seed, place, _known(numbers))


def _known(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if math.isfinite(value)}

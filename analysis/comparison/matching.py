"""Two runs where they have come as far: the counts of heads of both at equal KL, score or step.

Every checkpoint of either run whose value the other run has too makes a row: of its own run the
counts are measured, of the other they are interpolated (analysis/comparison/courses.py). Of
checkpoints of a run with the very same value, as at a score of 1, the first makes a row. Both runs
were measured on the same pairs, so differences are paired: resample i of both draws the same pairs.
Of KL the noise of the match is in the intervals; of a score it is not, as it is over problems: its
interval at the nearest checkpoint says how well the runs match.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.comparison.courses import (
    TITLES,
    Course,
    Place,
    Reading,
    shared_range,
    value_said,
)
from analysis.heads.changes import CHANGES
from analysis.intervals import Estimate, estimate_of_set
from analysis.reporting.text import count, has_interval, number

SHOWN = ("emergent", "pruned", "in_circuit")
CLOSE = 0.1  # of a value, within which two checkpoints are as far


@dataclass(frozen=True)
class MatchedRow:
    """Both runs at one value.

    value: of the checkpoint that is measured.  places: of a and b.  counts: by COUNTS the numbers
    of a, of b, and b less a.  called: by CHANGES those of a and of b, which may be interpolated.
    """

    value: Estimate
    places: tuple[Place, Place]
    counts: dict[str, tuple[Estimate, Estimate, Estimate]]
    called: dict[str, tuple[float, float]]

    @property
    def miss(self) -> float:
        """How far apart the two checkpoints are that lie nearest."""
        one, two = (place.nearest_value.value for place in self.places)
        return abs(one - two)


@dataclass(frozen=True)
class Matched:
    """Two runs at matched values, the smallest first.

    low, high: the range that both have.
    """

    measure: str
    labels: tuple[str, str]
    low: float
    high: float
    rows: list[MatchedRow]

    @property
    def best(self) -> MatchedRow:
        """The row whose nearest checkpoints are compared head by head.

        The furthest one where they are within CLOSE of the value, or else the nearest.
        """
        close = [row for row in self.rows if row.miss <= CLOSE * abs(row.value.value)]
        return close[-1] if close else min(self.rows, key=lambda row: row.miss)


def match_runs(a: Course, b: Course) -> Matched:
    """The rows of two courses of one measure.

    Raises:
        ValueError: they have no value in common, or one of the tables has other resamples.
    """
    low, high = shared_range([a, b])
    found = []
    for own, other in ((a, b), (b, a)):
        for i, step in enumerate(own.steps):
            value = own.values[i]
            if not low <= value.value <= high or _is_there(value, own.values[:i]):
                continue
            there = other.find(value.value)
            assert there is not None, "the value lies in the range that both have"
            rows = None if own.value_rows is None else own.value_rows[:, i]
            readings = own.read(own.at_step(step)), other.read(there, rows)
            found.append(_row(value, *(readings if own is a else readings[::-1])))
    found.sort(key=lambda row: (row.value.value, row.places[0].before))
    unique = {(row.places[0].said, row.places[1].said): row for row in found}
    return Matched(a.measure, (a.run.label, b.run.label), low, high, list(unique.values()))


def _is_there(value: Estimate, before: Sequence[Estimate]) -> bool:
    """Whether an earlier checkpoint has this very value, as a score has that can't rise further."""
    return any(value.value == other.value for other in before)


def _row(value: Estimate, a: Reading, b: Reading) -> MatchedRow:
    counts = {}
    for name, one in a.sizes.items():
        two = b.sizes[name]
        if 1 in (len(one), len(two)):
            one, two = one[:1], two[:1]
        sides = estimate_of_set(one, 0), estimate_of_set(two, 0)
        counts[name] = (*sides, estimate_of_set(two - one, -float("inf")))
    called = {name: (a.called[name], b.called[name]) for name in a.called}
    return MatchedRow(value, (a.place, b.place), counts, called)


def matched_json(matched: Matched) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "measure": matched.measure,
        "runs": dict(zip("ab", matched.labels, strict=True)),
        "low": matched.low,
        "high": matched.high,
        "rows": [
            {
                "value": asdict(row.value),
                "a": asdict(row.places[0]),
                "b": asdict(row.places[1]),
                "counts": {
                    name: dict(zip(("a", "b", "b_less_a"), map(asdict, each), strict=True))
                    for name, each in row.counts.items()
                },
                "called": {
                    name: dict(zip("ab", each, strict=True)) for name, each in row.called.items()
                },
            }
            for row in matched.rows
        ],
    }


def place_rows(matched: Matched) -> list[list[str]]:
    """Where either run has each value: a heading, then a line for each."""
    lines = [[matched.measure, "a at", "b at", "nearest of a", "of b"]]
    for row in matched.rows:
        near = (f"{p.nearest}: {value_said(p.nearest_value, matched.measure)}" for p in row.places)
        lines.append([f"{row.value.value:.3g}", *(place.said for place in row.places), *near])
    return lines


def matched_rows(matched: Matched, state: str) -> list[list[str]]:
    """The counts of one state: a heading, then a line for each value."""
    changes = ["called in a", "in b"] if state in CHANGES else []
    lines = [[matched.measure, f"{state.replace('_', ' ')} in a", "in b", "b - a", *changes]]
    for row in matched.rows:
        *sides, difference = row.counts[state]
        sizes = zip(sides, row.places, strict=True)
        called = row.called.get(state, ())
        lines.append(
            [
                f"{row.value.value:.3g}",
                *(count(each) if place.is_measured else number(each, 1) for each, place in sizes),
                number(difference, 1, sign=True),
                *("-" if math.isnan(each) else f"{each:.3g}" for each in called),
            ]
        )
    return lines


def matched_notes(matched: Matched) -> list[str]:
    """What the table rests on, and how well the runs match."""
    a, b = matched.labels
    measure, best = TITLES[matched.measure], matched.best
    if matched.measure == "step":
        how = "Matched by step."
    else:
        near = " and ".join(
            f"{name}@{place.nearest} ({value_said(place.nearest_value, matched.measure)})"
            for name, place in zip("ab", best.places, strict=True)
        )
        how = (
            f"Matched by {measure}, which both have from {matched.low:.3g} to {matched.high:.3g}; "
            f"compared head by head: {near}, {best.miss:.2g} apart."
        )
    notes = [
        f"a = {a}, b = {b}. {how}",
        "40..60: interpolated between these checkpoints; other counts are measured. Heads against "
        "the base of each run. [ ]: 95 % bootstrap over pairs, of b - a paired"
        + (", with the noise of the match." if matched.measure == "kl" else "."),
    ]
    if matched.measure == "score":
        notes.append("The scores have noise of their own (their intervals), which is not in b - a.")
    again = [row for row in matched.rows if max(place.crossings for place in row.places) > 1]
    if again:
        values = ", ".join(f"{row.value.value:.3g}" for row in again)
        notes.append(f"A run has these values more than once, and its first time counts: {values}.")
    if not all(has_interval(row.counts["emergent"][2]) for row in matched.rows):
        notes.append("The pairs can't be resampled, so there are no intervals.")
    return notes


def matched_tables(matched: Matched, states: Sequence[str] = SHOWN) -> list[list[list[str]]]:
    """Where the runs have each value, and the counts of some states there."""
    return [place_rows(matched), *(matched_rows(matched, state) for state in states)]

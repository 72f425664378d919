"""A run as a course: its counts of heads over how far it has come, instead of over its steps.

How far is measured by one of MEASURES:

    kl      KL from the base on the clean prompts, in nats (analysis/tracking/distance.py)
    score   held-out pass@1
    step    the optimizer's steps

A run's counts at a value of it are those of the first pair of neighbouring checkpoints between
which the run crosses the value, interpolated on the straight line between the two. The base is no
such neighbour: between it and the first checkpoint nothing is known. So a course reaches from the
smallest to the largest value that its trained checkpoints have.

Shape legend: R resamples, n checkpoints after the base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from analysis.heads.changes import CHANGES, COUNTS, set_sizes
from analysis.intervals import Estimate, bare
from analysis.reporting.text import estimate_in, number
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point

MEASURES = ("kl", "score", "step")
TITLES = {"kl": "KL from the base, nats", "score": "held-out pass@1", "step": "step"}


@dataclass(frozen=True)
class Place:
    """Where a course has a value: between two checkpoints, or at one (`share` 0).

    share: of the way from the step `before` to the step `after`. nearest: the step of the two whose
    own value, `nearest_value`, is nearest. crossings: how often the course has the value.
    """

    before: int
    after: int
    share: float
    nearest: int
    nearest_value: Estimate
    crossings: int

    @property
    def is_measured(self) -> bool:
        return self.share == 0

    @property
    def said(self) -> str:
        """`40`, or `40..60` where it is interpolated."""
        return str(self.before) if self.is_measured else f"{self.before}..{self.after}"


@dataclass(frozen=True)
class Reading:
    """The counts of a course at a place.

    sizes: of the raw sets by COUNTS, float64 [1+R].  called: by CHANGES; NaN if nothing can be.
    """

    place: Place
    sizes: dict[str, torch.Tensor]
    called: dict[str, float]


@dataclass(frozen=True)
class Course:
    """The checkpoints of a run after its base that have a value of the measure.

    values: of the measure, with intervals where they have any.  value_rows: of KL in the resamples,
    [1+R, n].  sizes: by COUNTS, [1+R, n].  called: by CHANGES, n numbers.
    """

    run: Run
    measure: str
    steps: list[int]
    values: list[Estimate]
    value_rows: torch.Tensor | None
    sizes: dict[str, torch.Tensor]
    called: dict[str, list[float]]

    @classmethod
    def of(cls, run: Run, measure: str) -> Course:
        """That of a run.

        Raises:
            ValueError: no checkpoint after the base has heads and a value of the measure.
        """
        found = [
            (point, value)
            for point in run.points
            if point.step > 0 and (value := _value(run, point, measure)) is not None
        ]
        if not found:
            raise ValueError(f"{run.path} {_LACKS[measure]}")
        points, values = [point for point, _ in found], [value for _, value in found]
        base = run.points[0].record.heads.members
        rows = [set_sizes(base, point.record.heads.members) for point in points]
        kl_rows = [point.record.kl_rows for point in points] if measure == "kl" else []
        tested = points[0].change.is_tested
        return cls(
            run,
            measure,
            [point.step for point in points],
            values,
            torch.stack([row for row in kl_rows if row is not None], 1) if kl_rows else None,
            {name: torch.stack([row[name] for row in rows], 1) for name in COUNTS},
            {
                name: [float(p.change.called[name].sum()) if tested else math.nan for p in points]
                for name in CHANGES
            },
        )

    @property
    def low(self) -> float:
        return min(value.value for value in self.values)

    @property
    def high(self) -> float:
        return max(value.value for value in self.values)

    @property
    def range_said(self) -> str:
        """`0.12 (step 10) to 1.3 (step 80)`."""
        ends = [
            min(zip(self.values, self.steps, strict=True), key=lambda end: end[0].value),
            max(zip(self.values, self.steps, strict=True), key=lambda end: end[0].value),
        ]
        said = (f"{end.value:.3g} (step {step})" for end, step in ends)
        return " to ".join(dict.fromkeys(said))

    def find(self, value: float) -> Place | None:
        """Where the course has a value for the first time; None beyond its range."""
        at = [own.value for own in self.values]
        places: list[tuple[int, int, float]] = []
        for i, own in enumerate(at):
            if own == value:
                places.append((i, i, 0.0))
            elif i + 1 < len(at) and (own - value) * (at[i + 1] - value) < 0:
                places.append((i, i + 1, (value - own) / (at[i + 1] - own)))
        if not places:
            return None
        i, j, share = places[0]
        near = i if share <= 0.5 else j
        crossed = self.steps[i], self.steps[j], share
        return Place(*crossed, self.steps[near], self.values[near], len(places))

    def at_step(self, step: int) -> Place:
        """The place of a checkpoint."""
        i = self.steps.index(step)
        return Place(step, step, 0.0, step, self.values[i], 1)

    def read(self, place: Place, to_rows: torch.Tensor | None = None) -> Reading:
        """The counts at a place.

        to_rows: the value that is sought in each resample, [1+R]: of KL the share of the way is
        then found in each, so that the noise of the match is in the counts.
        """
        i, j = self.steps.index(place.before), self.steps.index(place.after)
        share = torch.tensor(place.share, dtype=torch.float64)
        if not place.is_measured and to_rows is not None and self.value_rows is not None:
            start, end = self.value_rows[:, i], self.value_rows[:, j]
            way = ((to_rows - start) / (end - start)).nan_to_num(place.share)
            share = way.clamp(0.0, 1.0)
            share[0] = place.share
        sizes = {
            name: torch.lerp(table[:, i], table[:, j], share.expand(len(table)))
            for name, table in self.sizes.items()
        }
        called = {
            name: (1 - place.share) * numbers[i] + place.share * numbers[j]
            for name, numbers in self.called.items()
        }
        return Reading(place, sizes, called)


_LACKS = {
    "kl": "has no checkpoint after its base with a KL from the base; records of earlier versions "
    "have none: track base and checkpoints again (headlab track ... redo=true)",
    "score": "has no checkpoint after its base with heads and a held-out score; evaluate its "
    "checkpoints (evaluation.*), or match by kl or step",
    "step": "has no record after its base; track its checkpoints (headlab track)",
}


def _value(run: Run, point: Point, measure: str) -> Estimate | None:
    if measure == "kl":
        found = point.record.kl_from_base()
        return found if found is not None and math.isfinite(found.value) else None
    if measure == "score":
        scores = {row.step: row.evaluation for row in run.rows}
        evaluation = scores.get(point.step)
        return None if evaluation is None else estimate_in(evaluation, "pass_at_1")
    return bare(float(point.step))


def shared_range(courses: Sequence[Course]) -> tuple[float, float]:
    """The values that all courses have.

    Raises:
        ValueError: there are none.
    """
    low, high = max(c.low for c in courses), min(c.high for c in courses)
    if low > high:
        ranges = "; ".join(f"{course.run.label}: {course.range_said}" for course in courses)
        raise ValueError(
            f"the runs have no {TITLES[courses[0].measure]} in common ({ranges}), so they can't be "
            "matched by it; track more checkpoints of the run that is beyond the other, or train "
            "the other for longer"
        )
    return low, high


def value_said(value: Estimate, measure: str) -> str:
    """A value as text."""
    return f"{value.value:.0f}" if measure == "step" else number(value, 3)

"""Where a pair's path needs more points: `ig_steps=auto`.

The gradient along the path integrates to the change of the metric M, and M is known at every point
that was visited and at both ends. So between two neighbouring points the error of the sum is known
too, not only that of the whole path:

    error = (M at the one - M at the next) - the trapezoid of the slopes -dM/dalpha at the two

A path begins with START midpoints, which are all that a smooth one takes. Where the errors add up
to more than the tolerance, or cancel (their absolute values add up to more than SLACK times it),
the CELLS worst cells are cut in three, whose middle one keeps its point, and so on until the path
adds up, MOST points are spent, or no cell is wider than FINEST: a cliff as steep as that is a jump.

The tolerance is a share of the range of M along the path. That is its change where M rises all the
way; a pair whose ends are equal by chance is not asked for more than others. Nothing of other pairs
counts, so a pair's scores do not depend on its company.

For the numbers behind the constants see docs/LOG.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

START = 6
MOST = 60
GAP = 0.05  # of the range of M
SLACK = 4
CELLS = 2
FINEST = 1 / 1000


@dataclass(frozen=True)
class Cell:
    """A part of the path: its middle, where M and the slope -dM/dalpha are known.

    place: of its scores among those of the points that came after the start; None for a point of
    the start, whose scores are in a sum only. counted: the weight with which they are there.
    """

    middle: float
    width: float
    value: float
    slope: float
    place: int | None = None
    counted: float = 0.0

    @property
    def weight(self) -> float:
        """Of its scores, beside what is counted in the sum of the start."""
        return self.width - self.counted


@dataclass
class Path:
    """The path of one pair from the corrupted embedding (0) to the clean one (1).

    ends: M at both.  spent: points that were visited, twice those of which the scores were needed
    singly.
    """

    ends: tuple[float, float]
    cells: list[Cell]
    spent: int = field(init=False)

    def __post_init__(self) -> None:
        self.spent = len(self.cells)

    def errors(self) -> list[float]:
        """Of each stretch: start to first middle, middle to middle, last middle to end."""
        values = [self.ends[0], *(cell.value for cell in self.cells), self.ends[1]]
        halves = [0.0, *(cell.slope * cell.width / 2 for cell in self.cells), 0.0]
        changes = [a - b for a, b in pairwise(values)]
        return [change - a - b for change, (a, b) in zip(changes, pairwise(halves), strict=True)]

    def closed(self, gap: float) -> bool:
        """Whether what the sum misses is within the gap, a share of the range of M."""
        values, errors = [*self.ends, *(cell.value for cell in self.cells)], self.errors()
        if not all(map(math.isfinite, (*values, *errors))):
            return True  # no point mends that; the scores are refused where they are complete
        tolerance = gap * (max(values) - min(values))
        within = abs(math.fsum(errors)) <= tolerance
        return within and math.fsum(map(abs, errors)) <= SLACK * tolerance

    def worst(self) -> list[Cell]:
        """The cells to be cut next; none where no more may be spent."""
        errors = self.errors()
        found = [
            (abs(left) + abs(right), cell)
            for (left, right), cell in zip(pairwise(errors), self.cells, strict=True)
            if cell.width / 3 >= FINEST
        ]
        chosen = sorted(found, key=lambda pair: -pair[0])[:CELLS]
        cost = sum(len(points_of(cell)) for _, cell in chosen)
        return [cell for _, cell in chosen] if self.spent + cost <= MOST else []

    def cut(self, cell: Cell, visited: list[tuple[float, float, int]]) -> None:
        """Put three cells in the place of one: value, slope, place of each of `points_of`."""
        third, self.spent = cell.width / 3, self.spent + len(visited)
        middles = points_of(cell)
        new = [
            Cell(at, third, *of)
            for at, of in zip(middles, visited, strict=True)
            if at != cell.middle
        ]
        again = visited[middles.index(cell.middle)][2] if cell.middle in middles else cell.place
        counted = cell.counted if cell.place is not None else cell.width
        new.append(Cell(cell.middle, third, cell.value, cell.slope, again, counted))
        self.cells = sorted(
            [*(other for other in self.cells if other is not cell), *new], key=lambda c: c.middle
        )


def points_of(cell: Cell) -> list[float]:
    """Where the gradient is needed for cutting a cell in three.

    >>> points_of(Cell(0.5, 0.75, 0.0, 0.0, place=2)), points_of(Cell(0.5, 0.75, 0.0, 0.0))
    ([0.25, 0.75], [0.25, 0.5, 0.75])
    """
    third = cell.width / 3
    again = [] if cell.place is not None else [cell.middle]
    return [cell.middle - third, *again, cell.middle + third]

"""How tables and numbers with their intervals are written as text, in one way each.

    count      14 [12-16]              of heads and edges, never below 0
    number     0.71 [0.62, 0.80]
    percent    41.2 [38.0, 45.1]       of a share; in narrow tables 41.2 [38, 45]

A number without an interval, whose ends are NaN, is written bare, and one that is NaN itself as
`undefined`. None is written with a minus and nothing but zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.intervals import Estimate
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Point

WIDTH = 80


def text_table(
    rows: Sequence[Sequence[str]], align: str = "lr", heading: int = 1, gap: str = "  "
) -> list[str]:
    """Rows of cells as lines with aligned columns.

    align: a letter for each column, `l` or `r`; the last one stands for all that follow.
    heading: how many rows stand above the rule; 0 leaves the rule out.
    """
    sides = align.ljust(len(rows[0]), align[-1])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ]
        lines.append(gap.join(cells).rstrip())
    if heading:
        lines.insert(heading, "-" * (sum(widths) + len(gap) * (len(widths) - 1)))
    return lines


def text_tables(rows: Sequence[Sequence[str]], align: str = "r", heading: int = 0) -> list[str]:
    """`text_table` that fits a terminal: with narrow gaps, or in parts below one another.

    Each part begins with the first column.

    >>> [len(line) for line in text_tables([["step", "x" * 70, "yyy"], ["0", "1", "2"]])]
    [79, 79]
    >>> [len(line) for line in text_tables([["step", "x" * 50, "y" * 40], ["0", "1", "2"]])]
    [56, 56, 0, 46, 46]
    """
    sides = align.ljust(len(rows[0]), align[-1])

    def part(places: Sequence[int]) -> list[str]:
        cells = [[row[place] for place in places] for row in rows]
        return text_table(cells, "".join(sides[place] for place in places), heading)

    for gap in ("  ", " "):
        whole = text_table(rows, align, heading, gap)
        if max(map(len, whole)) <= WIDTH:
            return whole
    parts = [[0]]
    for column in range(1, len(rows[0])):
        both = [*parts[-1], column]
        if len(parts[-1]) == 1 or max(map(len, part(both))) <= WIDTH:
            parts[-1] = both
        else:
            parts.append([0, column])
    first, *others = map(part, parts)
    return [*first, *(line for other in others for line in ["", *other])]


def markdown_table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows of cells as the lines of a table in Markdown; the first is the heading."""
    lines = [f"| {' | '.join(str(cell).strip() for cell in row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def has_interval(estimate: Estimate) -> bool:
    """Whether both ends of an estimate are known."""
    return not (math.isnan(estimate.low) or math.isnan(estimate.high))


def _rounded(value: float, digits: int, sign: str = "") -> str:
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no -0.00


def number(estimate: Estimate, digits: int = 2, ends: int | None = None, sign: bool = False) -> str:
    """`0.71 [0.62, 0.80]`; the ends have as many digits unless told otherwise."""
    if math.isnan(estimate.value):
        return "undefined"
    shown = _rounded(estimate.value, digits, "+" * sign)
    if not has_interval(estimate):
        return shown
    low, high = (
        _rounded(end, digits if ends is None else ends) for end in (estimate.low, estimate.high)
    )
    return f"{shown} [{low}, {high}]"


def count(estimate: Estimate) -> str:
    """`14 [12-16]`."""
    shown = f"{estimate.value:.0f}"
    if not has_interval(estimate):
        return shown
    return f"{shown} [{estimate.low:.0f}-{estimate.high:.0f}]"


def estimate_in(found: Mapping[str, Any], value: str = "value") -> Estimate:
    """An estimate as evaluations hold it, null for NaN; value: its key beside `low` and `high`."""
    from analysis.intervals import Estimate

    numbers = (found[name] for name in (value, "low", "high"))
    return Estimate(*(math.nan if x is None else x for x in numbers))


def percent(share: Estimate, ends: int = 1, sign: bool = False) -> str:
    """`41.2 [38.0, 45.1]`; ends: digits of the interval.  sign: write a plus too."""
    from analysis.intervals import Estimate

    whole = Estimate(100 * share.value, 100 * share.low, 100 * share.high)
    return number(whole, 1, ends, sign)


def score(evaluation: Mapping[str, Any]) -> str:
    """pass@1 in per cent for narrow tables: `41.2 [38, 45]`."""
    return percent(estimate_in(evaluation, "pass_at_1"), ends=0)


def chances(null: Mapping[str, tuple[float, float]]) -> str:
    """What resampling gives by chance: `1.3 emergent (97.5 % point 4) and 0.9 pruned (...)`.

    Empty where the pairs can't be resampled.
    """
    if any(math.isnan(mean) for mean, _ in null.values()):
        return ""
    return " and ".join(
        f"{mean:.1f} {name} (97.5 % point {high:.0f})" for name, (mean, high) in null.items()
    )


def inclusion(before: float, after: float) -> str:
    """Share of the resamples with a head or an edge, first and then: ` (0.02 → 0.97)`.

    It follows a name, after a space; empty without resamples.
    """
    return "" if math.isnan(before) or math.isnan(after) else f" ({before:.2f} → {after:.2f})"


def p_value(p: float) -> str:
    """`0.012`, or `-` where there is none."""
    return "-" if math.isnan(p) else f"{p:.2g}"


def with_inclusion(run: Run, state: str) -> str:
    """Heads in a raw state at the last record, with inclusion at base and then.

    `L3H2* (0.02 → 0.97)`; the star marks a head that is called.
    """
    change, mask = run.points[-1].change, run.points[-1].masks[state]
    called = change.called[state][mask].tolist()
    shares = (change.inclusion_before[mask].tolist(), change.inclusion_after[mask].tolist())
    found = zip(run.final_heads(state), called, *shares, strict=True)
    cells = [f"{name}{'*' * star}{inclusion(base, now)}" for name, star, base, now in found]
    return ", ".join(cells) or "none"


def called_heads(point: Point) -> str:
    """Called emergent and pruned heads: `+9 -4`; `-` where none can be."""
    if not point.change.is_tested:
        return "-"
    return " ".join(
        f"{sign}{int(point.change.called[name].sum())}"
        for sign, name in (("+", "emergent"), ("-", "pruned"))
    )

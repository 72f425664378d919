"""The four numbers of the first screen, with interval, change and sparkline, at each checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from analysis.heads.changes import CHANGES
from analysis.intervals import Estimate
from analysis.reporting.dashboard.columns import COUNT, NOTHING, PERCENT, shown_rows
from analysis.reporting.dashboard.form import Column, Tile
from analysis.reporting.text import count, number, percent
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point

SCORES = ("score", "task/", "signal", "jaccard")  # the first that the run has is its first tile


def tiles(run: Run, columns: Mapping[str, Column]) -> list[Tile]:
    """How well the model does, heads in the circuit, called ones, faithfulness."""
    steps = [row.step for row in shown_rows(run)]
    points = [row.point for row in shown_rows(run)]
    score = next((name for start in SCORES for name in columns if name.startswith(start)), "score")
    return [
        _tile(score, columns, steps, "score now"),
        _tile("in_circuit", columns, steps, "heads in the circuit"),
        _called(points, columns),
        _tile("faithfulness", columns, steps, "faithfulness"),
    ]


def estimates(column: Column) -> list[Estimate]:
    """A column's values with their ends."""
    nothing: list[float | None] = [None] * len(column["value"])
    parts = (column["value"], column.get("low", nothing), column.get("high", nothing))
    return [
        Estimate(*(math.nan if end is None else end for end in each))
        for each in zip(*parts, strict=True)
    ]


def _tile(name: str, columns: Mapping[str, Column], steps: Sequence[int], title: str) -> Tile:
    column = columns.get(name)
    if column is None:
        nothing = [""] * len(steps)
        words = {"interval": nothing, "change": nothing, "note": nothing}
        return {"title": title, "term": None, "columns": [], "value": ["-"] * len(steps), **words}  # type: ignore[typeddict-item]
    form, found = column["form"], estimates(column)
    start = next((at for at, each in enumerate(found) if not math.isnan(each.value)), 0)
    first = found[start] if found else NOTHING
    return {
        "title": column["label"],
        "term": column["term"],
        "columns": [name],
        "value": [_value(each, form) for each in found],
        "interval": [_interval(each, form) for each in found],
        "change": [
            _change(each, first, form, steps[start]) if at > start else ""
            for at, each in enumerate(found)
        ],
        "note": [""] * len(found),
    }


_WRITTEN: Mapping[str, Callable[[Estimate], str]] = {COUNT: count, PERCENT: percent}


def _text(estimate: Estimate, form: str) -> tuple[str, str]:
    """The value and its interval."""
    if math.isnan(estimate.value):
        return "-", ""
    value, _, interval = _WRITTEN.get(form, number)(estimate).partition(" ")
    return value + " %" * (form == PERCENT), interval


def _value(estimate: Estimate, form: str) -> str:
    return _text(estimate, form)[0]


def _interval(estimate: Estimate, form: str) -> str:
    return _text(estimate, form)[1]


def _change(now: Estimate, first: Estimate, form: str, since: int) -> str:
    """`+12.3 since step 0`, in points where the value is a share; empty if unknown."""
    if math.isnan(now.value) or math.isnan(first.value):
        return ""
    scale, digits = {COUNT: (1, 0), PERCENT: (100, 1)}.get(form, (1, 2))
    change = round(scale * (now.value - first.value), digits) + 0.0
    shown = f"{change:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
    points = " points" * (form == PERCENT)
    return f"{shown}{points} since step {since}" if change else f"as at step {since}"


def _called(points: Sequence[Point | None], columns: Mapping[str, Column]) -> Tile:
    """Called emergent and pruned heads, beside the raw counts with their intervals."""
    tested = "called_emergent" in columns
    names = [f"called_{name}" if tested else name for name in CHANGES]
    there = [point for point in points if point is not None]
    value, interval, change = [], [], []
    for point in there:
        sets = point.change.called if tested else point.masks
        sizes = [int(sets[name].sum()) for name in CHANGES]
        value.append(f"+{sizes[0]} \N{MINUS SIGN}{sizes[1]}")
        raw = ", ".join(f"{count(point.counts[name])} {name}" for name in CHANGES)
        interval.append(f"raw: {raw}")
        chance = [point.change.null[name][0] for name in CHANGES]
        known = not any(math.isnan(mean) for mean in chance)
        change.append(f"by chance {chance[0]:.1f} and {chance[1]:.1f}" if known else "")
    nothing = [""] * (len(points) - len(there))
    return {
        "title": "called emergent and pruned" if tested else "emergent and pruned",
        "term": "called" if tested else "emergent",
        "columns": [name for name in names if name in columns],
        "value": value or ["-"] * len(points),
        "interval": interval or nothing,
        "change": change or nothing,
        "note": ["" if tested else "not told from noise" for _ in there] or nothing,
    }

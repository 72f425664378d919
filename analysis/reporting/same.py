"""Whether heads are still those of the base (analysis/heads/same.py), as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.reporting.text import number

if TYPE_CHECKING:
    import torch

    from analysis.heads.same import Same
    from analysis.trajectories.trajectory import Point

TITLES = ("changed", "o_proj cosine", "attention correlation")


def same_cells(same: Same | None, head: int) -> list[str]:
    """By TITLES: in what a head has changed, and both figures; `-` where there is none."""
    if same is None:
        return ["-"] * len(TITLES)
    figures = [table[:, head].tolist() for table in (same.o_proj, same.attention)]
    return [_changed_in(figures), *(_figure(*figure) for figure in figures)]


def _figure(value: float, low: float, high: float) -> str:
    from analysis.intervals import Estimate, bare

    if math.isnan(value):
        return "-"
    return number(bare(value) if low == high else Estimate(value, low, high))


def _changed_in(figures: Sequence[Sequence[float]]) -> str:
    from analysis.heads.same import HALF

    names = ("o_proj", "attention")
    found = [name for name, (*_, high) in zip(names, figures, strict=True) if high < HALF]
    return " and ".join(found) or "no"


def changed_heads(point: Point) -> torch.Tensor | None:
    """Those that have changed: bool [A]; None where they were not compared."""
    return None if point.record.same is None else point.record.same.changed


def changed_count(point: Point) -> str:
    """`3 (1 retained)`; nothing where heads were not compared."""
    if (changed := changed_heads(point)) is None:
        return ""
    return f"{int(changed.sum())} ({int((changed & point.masks['retained']).sum())} retained)"


def same_note(points: Sequence[Point]) -> str:
    """What changed heads are, and the level of chance; nothing where none was compared."""
    levels = [p.record.same.chance for p in points if p.record.same is not None]
    if not levels:
        return ""
    note = (
        "changed: the head's o_proj columns have a cosine below 0.5 with the base's, or its "
        "attention patterns a correlation (the upper end of the interval is). "
    )
    if (chance := levels[0]) is None or any(math.isnan(mean) for mean, _ in chance.values()):
        return note.rstrip()
    cosine, correlation = (
        f"{mean:.2f} (97.5 % point {high:.2f})"
        for mean, high in (chance["o_proj"], chance["attention"])
    )
    return f"{note}Between two heads of one layer of the base they are {cosine} and {correlation}."

"""What an attribution, or the tracking of a run, is predicted to need, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.attribution.forecast import Forecast

GIB = 2**30


def in_words(found: Forecast, n_pairs: int) -> list[str]:
    """A forecast of attributing so many pairs."""
    return [
        f"Tried on {found.tried} of {n_pairs} pairs, with {points_words(found)} a pair.",
        *memory_words(found),
        f"Time: {duration(found.seconds)} for all pairs.",
    ]


def points_words(found: Forecast) -> str:
    """How many points of the path the pairs took that were tried."""
    mean, least, most = found.points
    points = f"{mean:.0f}" if least == most else f"{mean:.1f} ({least} to {most})"
    return f"{points} point{'s' * (points != '1')} of the path"


def memory_words(found: Forecast) -> list[str]:
    """Its memory, and whether that fits."""
    how = f"recompute={str(found.recompute).lower()}"
    other = f"{found.other / GIB:.2f} GiB with recompute={str(not found.recompute).lower()}"
    lines = [f"Memory: {found.peak / GIB:.2f} GiB at most with {how}; {other}."]
    if found.free is not None:
        there = found.now + found.free
        lines.append(f"There are {there / GIB:.2f} GiB for this process.")
        if not found.fits:
            mend = "a smaller batch_size" if found.recompute else "recompute=true"
            lines.append(f"That does not fit; give {mend}.")
    return lines


def duration(seconds: float) -> str:
    """
    >>> duration(3.21), duration(95), duration(144), duration(7300)
    ('3.2 s', '95 s', '2 min 24 s', '2 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 600:  # half a minute still counts
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

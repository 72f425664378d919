"""What two runs have to say of each other, for the page that shows both: their last circuits.

The page itself sees at each checkpoint which heads the runs share (templates/dashboard/between.js);
here is what needs the resamples. Runs that were not measured alike have no such numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from analysis.heads.between import AS_CHANGES, GROUPS, SETS, numbers_of, since_bases
from analysis.heads.changes import Change, Heads, compare
from analysis.records.record import COMPARABLE
from analysis.reporting.dashboard.form import Group, Numbers, Pair
from analysis.reporting.text import count, number
from analysis.trajectories.run import Run

ROWS = {  # of `numbers_of`: titles, and the terms that explain them
    "in a": ("heads in the circuit of a", "circuit"),
    "in b": ("heads in the circuit of b", "circuit"),
    "shared": ("in both", None),
    "lost": ("in a only", None),
    "gained": ("in b only", None),
    "jaccard": ("Jaccard", "Jaccard"),
    "turnover": ("turnover from a to b", "turnover"),
    "excess turnover": ("excess turnover", "excess turnover"),
    "weighted overlap": ("weighted overlap", "weighted overlap"),
    "rank correlation": ("rank correlation of all heads", None),
}
COUNTED = ("in a", "in b", *SETS)


def pairs_of(runs: Sequence[Run]) -> list[Pair] | None:
    """Each two of the runs that have heads, in their order; None where there are no two."""
    tracked = [place for place, run in enumerate(runs) if run.points]
    found = [_pair(runs, a, b) for a, b in combinations(tracked, 2)]
    return found or None


def _pair(runs: Sequence[Run], a: int, b: int) -> Pair:
    points = [runs[place].points[-1] for place in (a, b)]
    one, two = (point.record for point in points)
    found: Pair = {
        "a": a,
        "b": b,
        "steps": [point.step for point in points],
        "alike": one.graph == two.graph,
        "differ": [what for what in COMPARABLE if getattr(one, what) != getattr(two, what)],
        "numbers": [],
        "called": [],
        "since": [],
    }
    if found["differ"]:
        return found
    change = compare(one.heads, two.heads)
    found["numbers"] = _numbers(one.heads, two.heads, change)
    found["called"] = change.found.nonzero().flatten().tolist()
    if all(point.step > 0 for point in points):
        sides = [
            (runs[place].points[0].record.heads, point.record.heads, point.change)
            for place, point in zip((a, b), points, strict=True)
        ]
        found["since"] = _since(sides)
    return found


def _numbers(one: Heads, two: Heads, change: Change) -> list[Numbers]:
    rows: list[Numbers] = []
    for name, estimate in numbers_of(one, two, change).items():
        title, term = ROWS[name]
        chance, called = "", None
        if change.is_tested and name in ("lost", "gained"):
            mean, high = change.null[AS_CHANGES[name]]
            chance = f"{mean:.1f}, 97.5 %: {high:.0f}"
            called = int(change.called[AS_CHANGES[name]].sum())
        elif change.is_tested and name == "turnover":
            chance = f"{change.null_turnover:.2f}"
        shown = (count if name in COUNTED else number)(estimate)
        rows.append(
            {"title": title, "term": term, "shown": shown, "called": called, "chance": chance}
        )
    return rows


def _since(sides: Sequence[tuple[Heads, Heads, Change]]) -> list[Group]:
    known = all(change.is_tested for *_, change in sides)
    return [
        {
            "change": name,
            "group": group,
            "shown": count(since.counts[group]),
            "called": int(since.called[group].sum()) if known else None,
            "heads": since.masks[group].nonzero().flatten().tolist(),
            "jaccard": number(since.jaccard),
        }
        for name, since in since_bases(sides).items()
        for group in GROUPS
    ]

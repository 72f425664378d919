"""What the model does at each checkpoint, and how much of it the circuit keeps, as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from analysis.records.record import Record
from analysis.reporting.same import changed_count, same_note
from analysis.reporting.text import WIDTH, count, number, text_tables
from analysis.trajectories.run import Row

KL, GAP, KEPT, SIZE, CHANGED = TITLES = (
    *("KL from the base, nats", "gap", "faithfulness", "edges"),
    "changed heads",
)
NO_CIRCUIT = "no circuit"


def behaviour_table(rows: Sequence[Row]) -> list[list[str]]:
    """What the model does and what its circuit keeps: a heading, then a line for each checkpoint.

    A column that no checkpoint has is left out; empty where there would be none.
    """
    points = [row.point for row in rows if row.point is not None]
    cells = [{**_behaviour(point.record), CHANGED: changed_count(point)} for point in points]
    titles = [title for title in TITLES if any(of_point.get(title) for of_point in cells)]
    if not titles:
        return []
    lines = [
        [str(point.step), *(of_point.get(title) or "-" for title in titles)]
        for point, of_point in zip(points, cells, strict=True)
    ]
    return [["checkpoint", *titles], *lines]


def _behaviour(record: Record) -> dict[str, str]:
    """By TITLES, what was measured."""
    found = {}
    if (kl := record.kl_from_base()) is not None:
        found[KL] = number(kl, 3)
    if record.held_out is not None:
        gap = number(record.metric_gap(), 2)
        found[GAP] = f"{gap}, {NO_CIRCUIT}" if record.lacks_behaviour else gap
        found[KEPT] = number(record.faithfulness())
    if (size := record.size()) is not None:
        found[SIZE] = count(size)
    return found


def lacking_note(record: Record) -> str:
    """Of a model that does not show the behaviour, what that rests on, as a sentence."""
    return (
        "the model does not show the behaviour on these pairs, as the gap ("
        f"{record.gap_metric} of the corrupted prompts less that of the clean ones) is "
        f"{number(record.metric_gap(), 2)}, not above 0. All its heads count as out; its "
        "faithfulness is that of the edges that would have been taken."
    )


def behaviour_notes(rows: Sequence[Row]) -> list[str]:
    """What the columns of `behaviour_table` are, as sentences."""
    points = [row.point for row in rows if row.point is not None]
    measured = [point.record for point in points if point.record.held_out is not None]
    same = [note] if (note := same_note(points)) else []
    if not measured:
        return same
    told = measured[0].gap_metric
    gap = (
        f"gap: {told} of the corrupted prompts less that of the clean ones. "
        if told is not None
        else "gap: in KL, which tells prompts apart in any model, so that nothing says whether it "
        "shows the behaviour (pairs with a target and a foil do). "
    )
    lacks = any(record.lacks_behaviour for record in measured)
    none = f"{NO_CIRCUIT}: it is not above 0 beyond its sampling error. " if lacks else ""
    return [
        f"{gap}{none}faithfulness: each pair under a circuit that the other half of the pairs "
        "ranked.",
        *same,
    ]


def behaviour_lines(rows: Sequence[Row]) -> list[str]:
    """`behaviour_table` below the table; nothing if it is empty."""
    if not (found := behaviour_table(rows)):
        return []
    text = text_tables(found)
    notes = [part for line in behaviour_notes(rows) for part in textwrap.wrap(line, WIDTH)]
    return [*text, "-" * max(map(len, text)), *notes]

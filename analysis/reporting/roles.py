"""Roles of heads (analysis/heads/roles.py) as text."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from analysis.reporting.kinds import kind_cell, kind_title
from analysis.reporting.text import WIDTH, number, text_tables

if TYPE_CHECKING:
    from analysis.heads.roles import Roles, Score
    from analysis.records.record import Record

TITLES = {  # score -> title of its column
    "previous_token": "previous token",
    "induction": "induction",
    "operands": "to operands",
    "answer": "to answer",
    "think": "to think tag",
    "copying": "copying",
    "receiver": "receiver kurtosis",
}


def role_cell(score: Score, head: int) -> str:
    """`0.41 [0.38, 0.45]`, without an interval `0.41`; `-` where it is undefined."""
    from analysis.intervals import Estimate

    found = Estimate(score.value[head], score.low[head], score.high[head])
    return "-" if math.isnan(found.value) else number(found)


def role_cells(roles: Roles, head: int) -> list[str]:
    """One head's scores, in the order of TITLES."""
    found = (roles.scores.get(name) for name in TITLES)
    return ["-" if score is None else role_cell(score, head) for score in found]


def no_cells() -> list[str]:
    """What stands for the scores of a head that has none."""
    return ["-"] * len(TITLES)


def defining_pairs(roles: Roles) -> str:
    """How many pairs define each score: `previous token 64, induction 64, ...`."""
    scores = {title: roles.scores.get(name) for name, title in TITLES.items() if name != "copying"}
    used = {title: 0 if score is None else score.pairs for title, score in scores.items()}
    return ", ".join(f"{title} {pairs}" for title, pairs in used.items())


def format_roles(roles: Roles, record: Record) -> str:
    """Tables of the circuit's heads, the most important first, with what their columns rest on."""
    inside = record.in_circuit.nonzero().flatten().tolist()
    inside.sort(key=lambda head: -float(record.importance[head]))
    graph = record.graph
    rows = [["head", *kind_title(graph), *TITLES.values()]]
    rows += [[roles.heads[h], *kind_cell(graph, h), *role_cells(roles, h)] for h in inside]
    said = [f"pairs: {defining_pairs(roles)}; receiver over {roles.unit}", *_undefined(roles)]
    notes = [line for note in said for line in textwrap.wrap(note, WIDTH)]
    return "\n".join([*text_tables(rows), "", *notes])


def _undefined(roles: Roles) -> list[str]:
    """What is undefined of some heads and not of all, and why."""
    reasons = {
        "previous_token": "no pattern of {}: linear attention, or none that is seen",
        "copying": "no copying of {}: their values are no rows of one projection of the stream",
    }
    notes = []
    for name, reason in reasons.items():
        score = roles.scores.get(name)
        missing = [] if score is None else [math.isnan(value) for value in score.value]
        heads = [head for head, none in zip(roles.heads, missing, strict=False) if none]
        if 0 < len(heads) < len(roles.heads):
            shown = ", ".join(heads[:4]) + (", ..." if len(heads) > 4 else "")
            notes.append(reason.format(f"{len(heads)} heads ({shown})"))
    return notes

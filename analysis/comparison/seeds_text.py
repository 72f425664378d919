"""What a comparison over seeds found, for a terminal of 80 columns and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from analysis.comparison.courses import TITLES
from analysis.comparison.seeds import COUNTED, FEWEST, SeedFindings, Seeds
from analysis.intervals import Estimate
from analysis.reporting.text import WIDTH, has_interval, number, p_value, text_tables

FINE = ("jaccard", "faithfulness", "kl", "score")  # with two digits; counts have one


def _cell(name: str, estimate: Estimate, sign: bool = False) -> str:
    return number(estimate, 2 if name in FINE else 1, sign=sign)


def seed_rows(found: SeedFindings) -> list[list[str]]:
    """The means of each group, their difference and its p: a heading, then a line a number."""
    titles = ["mean over seeds"]
    if found.contrast is None:
        titles.append(_size(found.groups[0]))
    else:
        one, two = map(_size, found.groups)
        titles += [one, f"against {two}", "difference", "p"]
    lines = [titles]
    for name, title in COUNTED.items():
        if not any(name in group.means for group in found.groups):
            continue
        means = (group.means.get(name) for group in found.groups)
        cells = ["-" if mean is None else _cell(name, mean) for mean in means]
        if found.contrast is not None and name in found.contrast.difference:
            difference = _cell(name, found.contrast.difference[name], sign=True)
            cells += [difference, p_value(found.contrast.p_value[name])]
        elif found.contrast is not None:
            cells += ["-", "-"]
        lines.append([title, *cells])
    return lines


def _size(group: Seeds) -> str:
    return f"{len(group.seeds)} seed{'s' * (len(group.seeds) != 1)}"


def each_seed(group: Seeds) -> list[list[str]]:
    """The numbers of each run: a heading, then a line a run."""
    names = [
        name
        for name in ("emergent", "emergent_called", "pruned", "pruned_called", "kl", "score")
        if name in group.means
    ]
    short = {"emergent_called": "called", "pruned_called": "called", "score": "pass@1", "kl": "KL"}
    lines = [["run", "seed", "at", *(short.get(name, name) for name in names)]]
    for seed in group.seeds:
        numbers = (f"{seed.numbers[name]:.3g}" for name in names)
        seed_number = "-" if seed.seed is None else str(seed.seed)
        lines.append([seed.label, seed_number, seed.place.said, *numbers])
    return lines


def format_seeds(found: SeedFindings) -> str:
    """Everything in plain text."""
    lines: list[str] = []
    for title, group in zip(("seeds", "against"), found.groups, strict=False):
        lines += [title, *text_tables(each_seed(group), "lrr", heading=1), ""]
    table = text_tables(seed_rows(found), "lr", heading=1)
    lines += [*table, "-" * len(table[1])]
    return "\n".join([*lines, *(p for n in seed_notes(found) for p in textwrap.wrap(n, WIDTH))])


def seed_notes(found: SeedFindings) -> list[str]:
    """What the numbers mean, and what is wrong with them."""
    where = "At the last record of each run."
    if found.value is not None:
        where = (
            f"Matched at {TITLES[found.measure]} {found.value:.3g}; 40..60: interpolated between "
            "these checkpoints."
        )
    notes = [
        f"{where} Heads are counted against the base of each run, and not compared by name. "
        "[ ]: 95 % interval of Student's t over seeds."
    ]
    if any(len(group.seeds) < FEWEST for group in found.groups):
        notes.append(f"Fewer than {FEWEST} seeds have no interval.")
    elif any(not has_interval(mean) for group in found.groups for mean in group.means.values()):
        notes.append("A number that is the same in all seeds has no interval.")
    if found.contrast is not None:
        notes.append("difference, p: of Welch's t; each p is of its number only.")
    return notes + found.notes


def seeds_json(found: SeedFindings) -> dict[str, Any]:
    """Everything, for programs."""
    groups: Sequence[Seeds] = found.groups
    return {
        "measure": found.measure,
        "value": found.value,
        "groups": [
            {
                "seeds": [asdict(seed) for seed in group.seeds],
                "means": {name: asdict(mean) for name, mean in group.means.items()},
            }
            for group in groups
        ],
        "contrast": None
        if found.contrast is None
        else {
            name: {**asdict(value), "p_value": found.contrast.p_value[name]}
            for name, value in found.contrast.difference.items()
        },
        "notes": seed_notes(found),
    }

"""The results of an evaluation as text for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

from analysis.reporting.text import (
    WIDTH,
    estimate_in,
    has_interval,
    percent,
    text_table,
    text_tables,
)

ROWS = {
    "none": "the model as it is",
    "intervention": "changed",
    "random": "random heads changed",
    "base": "the base as it is",
    "base+intervention": "the base, changed",
}
VERDICTS = {
    "effect": "effect: changed - as it is",
    "control": "the same of random heads, mean",
    "effect_minus_control": "effect - that of random heads",
    "base_effect": "effect in the base",
    "effect_minus_base": "effect - that in the base",
}


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _condition_rows(conditions: Mapping[str, Any]) -> list[list[str]]:
    ks = list(conditions["none"]["pass_at_k"])
    ks = [k for k in ks if int(k) > 1]
    titles = ["", "pass@1 %", *(f"pass@{k} %" for k in ks), *(f"first {k} %" for k in ks)]
    rows = [[*titles, "cut off", "unjudged"]]
    sets = [score for name, score in conditions.items() if name.startswith("random-")]

    def row(title: str, score: Mapping[str, Any]) -> list[str]:
        more = [
            percent(estimate_in(score[kind][k])) for kind in ("pass_at_k", "first_k") for k in ks
        ]
        failed = sum(score["failures"].values())
        one = percent(estimate_in(score, "pass_at_1"))
        return [title, one, *more, str(score["truncated"]), str(failed)]

    for name, title in ROWS.items():
        if name in conditions:
            rows.append(row(title, conditions[name]))
        elif name == "random" and sets:
            values = [100 * score["pass_at_1"] for score in sets]
            spread = f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            cut = sum(score["truncated"] for score in sets)
            failed = sum(sum(score["failures"].values()) for score in sets)
            blank = [""] * (2 * len(ks))
            rows.append([f"{title}, {len(sets)} sets", spread, *blank, str(cut), str(failed)])
    return rows


def _failures(conditions: Mapping[str, Any]) -> str:
    total: Counter[str] = Counter()
    for score in conditions.values():
        total.update(score["failures"])
    names = {
        "no_answer": "without an answer",
        "unparseable": "not parsed",
        "too_long": "too long to parse",
        "timeout": "verifier out of time",
    }
    return ", ".join(f"{count} {names.get(name, name)}" for name, count in total.items()) or "none"


def format_result(result: Mapping[str, Any]) -> str:
    """Two tables, the conditions and what follows from them, and what their brackets mean."""
    conditions, comparisons = result["conditions"], result["comparisons"]
    # what was asked, and what was changed
    none = conditions["none"]
    problems, samples = _count(none["problems"], "problem"), _count(none["samples"], "sample")
    head = f"{result['task']}: {problems}, {samples} of each"
    if result["think"]:
        head += f", think {result['think']}"
    lines = [head]
    if result["intervention"] != "none":
        heads = f"{_count(len(result['heads']), 'head')}: {', '.join(result['heads'])}"
        changed = f"{result['intervention']} ({heads})"
        lines += textwrap.wrap(changed, WIDTH)
    # the tables: the conditions, then their differences
    lines += ["", *text_tables(_condition_rows(conditions), "lr", heading=1), ""]
    if comparisons:
        rows = [["in points of pass@1", "", "p"]]
        for name, title in VERDICTS.items():
            if name in comparisons:
                p = comparisons[name]["p_value"]
                shown = "" if p is None else f"{p:.2g}"
                rows.append([title, percent(estimate_in(comparisons[name])), shown])
        lines += [*text_table(rows), ""]
    # how to read them
    notes = [
        "[low, high]: 95 % bootstrap over problems and samples"
        + (", and random sets." if "control" in comparisons else ".")
        if has_interval(estimate_in(none, "pass_at_1"))
        else "All problems are copies of one, so there are no intervals and no p-values.",
        f"Answers not judged (they count as wrong): {_failures(conditions)}.",
    ]
    if comparisons and "base" not in conditions:
        notes.append("No base is known: base=DIR changes the same heads in another model too.")
    if "control" in comparisons:
        notes.append(
            "p of an effect: exact sign test over problems. Against random heads the interval is "
            "that of the difference from their mean, and p the share of sets, this one included, "
            "with an effect as large."
        )
    elif comparisons:
        notes.append(
            "p: exact sign test over problems. No random heads were changed: controls=10 tells "
            "what any heads would do."
        )
    return "\n".join([*lines, *(part for note in notes for part in textwrap.wrap(note, WIDTH))])

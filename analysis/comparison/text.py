"""What a comparison found, for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from analysis.comparison.courses import TITLES
from analysis.comparison.definitions import Comparison, Subject
from analysis.comparison.findings import Findings
from analysis.comparison.matching import Matched, matched_notes, matched_tables
from analysis.comparison.rows import (
    cross_rows,
    edge_list,
    marked_heads,
    number_rows,
    reasons,
    since_rows,
)
from analysis.heads.between import SETS
from analysis.reporting.kinds import kinds_note
from analysis.reporting.text import WIDTH, inclusion, number, text_table

SHOWN_HEADS, SHOWN_EDGES = 12, 5


def _listed(title: str, names: Sequence[str], most: int) -> list[str]:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    text = f"{title}: {', '.join([*names[:most], *more]) or 'none'}"
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in text_table(rows, heading=0)]


def _about(subject: Subject) -> list[str]:
    size = f"{int(subject.edges.sum())} edges"
    kept = ""
    if subject.record is not None:
        kept = f", faithfulness {number(subject.record.faithfulness())}"
    text = f"{subject.name} = {subject.label}: {size}{kept}; {subject.source}"
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def format_matched(matched: Matched) -> list[str]:
    """Two runs where they have come as far, as lines."""
    lines = [f"Matched by {TITLES[matched.measure]}", ""]
    for table in matched_tables(matched):
        lines += [*_columns(table), ""]
    return lines + [part for n in matched_notes(matched) for part in textwrap.wrap(n, WIDTH)]


def format_comparison(c: Comparison) -> list[str]:
    """One pair as lines."""
    lines = [f"{c.a.name} -> {c.b.name}    {c.a.label} -> {c.b.label}"[:WIDTH], ""]
    lines += _columns([["", "heads", "edges"], *number_rows(c)])
    lines.append("")
    for name in SETS[1:]:
        lines += _listed(f"heads {name}", marked_heads(c, name), SHOWN_HEADS)
    for name in SETS[1:]:
        shown = edge_list(c, name)[:SHOWN_EDGES]
        names = []
        for edge in shown:
            names.append(edge.edge + inclusion(edge.inclusion_a, edge.inclusion_b))
        names += [""] * (int(c.edges.masks[name].sum()) - len(shown))
        lines += _listed(f"edges {name}", names, SHOWN_EDGES)
    if c.bases is not None:
        lines += ["", "Against the base of each run (called in brackets):"]
        rows = since_rows(c.bases, c)
        for row in rows:
            lines += _listed(f"  {row[0]}, {row[1]} ({row[2]})", row[3].split(", "), SHOWN_HEADS)
        for change, since in c.bases.items():
            lines.append(f"  Jaccard of the {change} heads: {number(since.jaccard)}")
    return lines


def format_findings(findings: Findings) -> str:
    """Everything in plain text, in 80 columns."""
    rule = "-" * WIDTH
    lines = [line for subject in findings.subjects for line in _about(subject)]
    for text in findings.warnings:
        lines += textwrap.wrap(f"Take care: {text}", WIDTH, subsequent_indent="  ")
    if findings.matched is not None:
        lines += [rule, *format_matched(findings.matched)]
    for comparison in findings.comparisons:
        lines += [rule, *format_comparison(comparison)]
    lines += [rule, "Cross-faithfulness: 1 is the whole model, 0 the empty circuit", ""]
    names = [subject.name for subject in findings.subjects]
    full = [name for name in names if any(c.model == name and not c.reason for c in findings.cells)]
    for start in range(0, len(full), 3):
        lines += [*_columns(cross_rows(findings, full[start : start + 3])), ""]
    for reason in reasons(findings):
        lines += textwrap.wrap(reason, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    notes = [
        "[ ]: 95 % bootstrap over pairs. (0.02 → 0.97): share of the resamples that hold "
        "the head or edge in the first and in the second. *: called, a change of a head beyond a "
        f"false-discovery rate of {findings.q:g}. By chance: between two resamples of one circuit.",
        "less own: less the faithfulness of the model's own circuit. random: a random circuit of "
        "as many edges. A circuit looks better on the pairs that ranked it; pairs=FILE takes "
        "others.",
        kinds_note(findings.subjects[0].graph),
    ]
    lines += [rule, *(part for note in notes for part in textwrap.wrap(note, WIDTH))]
    return "\n".join(lines) + "\n"

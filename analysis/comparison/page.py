"""The page of a comparison: one HTML file that needs no network.

It is a pure function of what was found. Its words are in analysis/reporting/templates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.comparison.definitions import Comparison
from analysis.comparison.findings import Findings
from analysis.comparison.json import subject_json
from analysis.comparison.matching import matched_notes, matched_tables
from analysis.comparison.rows import (
    HeadRow,
    cross_rows,
    edge_list,
    head_list,
    number_rows,
    reasons,
    since_rows,
)
from analysis.models.graph import Graph, head_name
from analysis.models.provenance import code_version
from analysis.reporting.kinds import kind_cell, kind_title
from analysis.reporting.pages import Table, chart, write_page
from analysis.reporting.text import number

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE_EDGES = 100


@dataclass(frozen=True)
class Edges:
    """The edges of one change, gained or lost: how many, and the first ones."""

    change: str
    total: int
    shown: Table


@dataclass(frozen=True)
class Pair:
    """What the page tells about one pair of circuits, a and b by their keys.

    neither: how the map shows heads that are in none of the two.
    bases, jaccard: against the base of each run; None and empty without bases.
    """

    title: str
    a: str
    b: str
    numbers: Table
    bases: Table | None
    jaccard: dict[str, str]
    map: Markup
    neither: str
    heads: Table
    edges: list[Edges]


def pair(c: Comparison) -> Pair:
    """One pair of circuits."""
    from analysis.comparison.figures import effect_map

    a, b = c.a.name, c.b.name
    title = f"{a} → {b}: {c.a.label} → {c.b.label}"
    of_bases = ("against the base of each run", "heads", "called", "which")
    return Pair(
        title=title,
        a=a,
        b=b,
        numbers=Table(("", "heads", "edges"), number_rows(c)),
        bases=None if c.bases is None else Table(of_bases, since_rows(c.bases, c)),
        jaccard={change: number(since.jaccard) for change, since in (c.bases or {}).items()},
        map=chart(effect_map(c).to_plotly_json(), f"effect-{a}-{b}", title),
        neither="grey" if c.a.graph.is_ragged else "blank",
        heads=head_table(c),
        edges=[edges(c, change) for change in ("gained", "lost")],
    )


def head_table(c: Comparison) -> Table:
    """Every head that is in a or in b."""
    a, b = c.a.name, c.b.name
    inclusion = (f"inclusion in {a}", f"in {b}")
    importance = (f"importance in {a}", f"in {b}")
    kinds = kind_title(c.a.graph)
    titles = ("head", *kinds, "change", "called", *inclusion, "p", *importance, "effect E")
    return Table(titles, [_head_cells(row, c.a.graph) for row in head_list(c)])


def edges(c: Comparison, change: str) -> Edges:
    """The edges gained or lost."""
    a, b = c.a.name, c.b.name
    titles = ("edge", f"inclusion in {a}", f"in {b}", f"score in {a}", f"in {b}")
    found = edge_list(c, change)
    rows = [
        [
            edge.edge,
            *(_shown(inclusion) for inclusion in (edge.inclusion_a, edge.inclusion_b)),
            *(_shown(score, ".3g") for score in (edge.score_a, edge.score_b)),
        ]
        for edge in found[:PAGE_EDGES]
    ]
    return Edges(change, len(found), Table(titles, rows))


def _shown(value: float, how: str = ".2f") -> str:
    return "-" if math.isnan(value) else f"{value:{how}}"


def _head_cells(row: HeadRow, graph: Graph) -> list[str]:
    head = graph.parse_head(row.head)
    return [
        head_name(head),
        *kind_cell(graph, graph.head_index[head]),
        row.change,
        "yes" if row.called else "-",
        _shown(row.inclusion_a),
        _shown(row.inclusion_b),
        _shown(row.p_value, ".2g"),
        _shown(row.importance_a, ".4f"),
        _shown(row.importance_b, ".4f"),
        "-" if math.isnan(row.effect.value) else number(row.effect),
    ]


def subject_table(findings: Findings) -> Table:
    """The circuits that are compared."""
    rows = []
    for s in findings.subjects:
        kept = "-" if s.record is None else number(s.record.faithfulness())
        heads = sum(layer.value for layer in findings.profiles[s.name].heads)
        rows.append([s.name, s.label, str(int(s.edges.sum())), f"{heads:.0f}", kept])
    return Table(("", "circuit", "edges", "heads", "faithfulness"), rows)


def source_table(findings: Findings) -> Table:
    """Where each circuit was read from, and what it was measured with."""
    rows = []
    models = findings.made_with.get("models", {})
    for s in findings.subjects:
        found = subject_json(s)
        origin = found.get("origin", {})
        model = origin.get("model") or {}
        rows.append(
            [
                s.name,
                str(s.source),
                str(found.get("step", "-")),
                str(found.get("pairs_hash", "-")),
                str(model.get("weights", "-")),
                str(model.get("adapter") or "-"),
                str((origin.get("code") or {}).get("commit", "-")),
                str(models.get(s.name) or "-"),
            ]
        )
    heading = ("", "read from", "step", "pairs", "weights", "adapter", "tracked by", "model run")
    return Table(heading, rows)


def source_details(findings: Findings) -> str:
    """Settings and versions, a line each."""
    shown = ("graph", "settings", "selection", "origin", "file_hash")
    details = []
    for s in findings.subjects:
        found = subject_json(s)
        if s.graph.layers is not None:  # what each layer has is long
            found["graph"] = s.graph
        details += [f"{s.name}: {key} = {value}" for key, value in found.items() if key in shown]
    about = [f"q = {findings.q}", f"seed = {findings.seed}", f"code = {code_version()}"]
    return "\n".join([*about, *details])


def write_comparison(path: Path, findings: Findings) -> None:
    """Write the page."""
    from analysis.comparison.figures import profile_figure

    matched = findings.matched
    tables = [] if matched is None else matched_tables(matched)
    heading, *rows = cross_rows(findings, [subject.name for subject in findings.subjects])
    write_page(
        path,
        "comparison.html.j2",
        title=" · ".join(subject.label for subject in findings.subjects),
        subjects=subject_table(findings),
        warnings=findings.warnings,
        matched=[Table(titles, rows) for titles, *rows in tables],
        matched_notes=[] if matched is None else matched_notes(matched),
        pairs=[pair(c) for c in findings.comparisons],
        layers=chart(profile_figure(findings).to_plotly_json(), "layers", "By layer"),
        cross=Table(heading, rows),
        reasons=reasons(findings),
        sources=source_table(findings),
        details=source_details(findings),
    )

"""The page of a comparison: one HTML file that needs no network, because plotly.js is written in.

It is a pure function of what was found. Text from files, such as names of runs, is escaped.
"""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.comparison.definitions import Comparison
from analysis.comparison.text import (
    Findings,
    _subject_json,
    cross_rows,
    edge_list,
    head_list,
    number_rows,
    reasons,
    since_rows,
)
from analysis.files import atomic_write
from analysis.intervals import Estimate
from analysis.models.graph import short_head_name
from analysis.models.provenance import code_version
from analysis.reporting.text import count, has_interval, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PAGE_EDGES = 100
COLOURS = ("#1f6fd6", "#d62f2f", "#1b7f5c", "#8a5a12", "#6b4fb3", "#1f2933", "#c2458b", "#5b8a99")


def effect_map(c: Comparison) -> Figure:
    """Layers x heads coloured by E; stars are called, heads in neither circuit are blank."""
    from plotly.graph_objects import Figure, Heatmap

    graph = c.a.graph
    size = (graph.n_layers, graph.n_heads)
    values: list[float | None] = [None] * (size[0] * size[1])
    texts, stars = [""] * len(values), []
    for row in head_list(c):
        index = graph.head_names.index(row["head"])
        effect = Estimate(**row["effect"])
        values[index] = effect.value
        texts[index] = (
            f"{short_head_name(row['head'])}: {row['change']}{', called' * bool(row['called'])}"
            f"<br>E {number(effect)}<br>importance {row['importance_a']:.4f} → "
            f"{row['importance_b']:.4f}"
        )
        if has_interval(effect):
            texts[index] += f"<br>inclusion {row['inclusion_a']:.2f} → {row['inclusion_b']:.2f}"
        if row["called"]:
            stars.append(divmod(index, size[1]))
    rows = range(0, len(values), size[1])
    figure = Figure(
        Heatmap(
            z=[values[i : i + size[1]] for i in rows],
            text=[texts[i : i + size[1]] for i in rows],
            hovertemplate="%{text}<extra></extra>",
            zmin=-1,
            zmax=1,
            colorscale="RdBu_r",
            xgap=1,
            ygap=1,
            colorbar={"title": "E", "tickvals": [-1, 0, 1]},
            hoverongaps=False,
        )
    )
    mark = {"symbol": "star", "size": 9, "color": "#1f2933", "line": {"color": "white", "width": 1}}
    figure.add_scatter(
        x=[head for _, head in stars],
        y=[layer for layer, _ in stars],
        mode="markers",
        marker=mark,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_xaxes(title="head", dtick=1, showgrid=False, zeroline=False)
    figure.update_yaxes(title="layer", dtick=1, showgrid=False, zeroline=False)
    _lay_out(figure, 140 + 22 * size[0])
    return figure


def profile_figure(findings: Findings) -> Figure:
    """Heads and mean importance by layer, with intervals, a line for each subject."""
    from plotly.subplots import make_subplots

    titles = ("heads in the circuit", "mean importance of a head")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles)
    many = len(findings.subjects)
    for index, subject in enumerate(findings.subjects):
        found, colour = findings.profiles[subject.name], COLOURS[index]
        for column, numbers in enumerate((found.heads, found.importance), start=1):
            ends = None
            if all(map(has_interval, numbers)):
                ends = {
                    "type": "data",
                    "symmetric": False,
                    "thickness": 1,
                    "width": 3,
                    "array": [x.high - x.value for x in numbers],
                    "arrayminus": [x.value - x.low for x in numbers],
                }
            figure.add_scatter(
                x=[layer + 0.12 * (index - (many - 1) / 2) for layer in range(len(numbers))],
                y=[x.value for x in numbers],
                error_y=ends,
                mode="lines+markers",
                row=1,
                col=column,
                line={"color": colour},
                name=f"{subject.name} {escape(subject.label)}",
                showlegend=column == 1,
                text=[number(x, 4) if column == 2 else count(x) for x in numbers],
                hovertemplate="%{text}",
                legendgroup=subject.name,
            )
    n_layers = findings.subjects[0].graph.n_layers
    figure.update_xaxes(title="layer", dtick=max(1, n_layers // 12))
    figure.update_yaxes(rangemode="tozero")
    _lay_out(figure, 380)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    return figure


def _lay_out(figure: Figure, height: int) -> None:
    figure.update_layout(
        height=height,
        margin={"l": 55, "r": 20, "t": 35, "b": 45},
        template="plotly_white",
        paper_bgcolor="#fbfbf9",
        plot_bgcolor="#fff",
    )


def _section(c: Comparison, draw: Any) -> str:
    """One pair as HTML."""
    from analysis.reporting.html import html_table

    name = f"{c.a.name}-{c.b.name}"
    arrow = f"{c.a.name} → {c.b.name}: {c.a.label} → {c.b.label}"
    parts = [f"<h2>{escape(arrow)}</h2>", html_table(["", "heads", "edges"], number_rows(c))]
    if c.bases is not None:
        titles = ("against the base of each run", "heads", "called", "which")
        parts += ["<h3>Against the bases</h3>", html_table(titles, since_rows(c.bases, c))]
        parts += [
            f'<p class="note">Jaccard of the {change} heads: {number(since.jaccard)}.</p>'
            for change, since in c.bases.items()
        ]
    parts += [
        "<h3>Effect map</h3>",
        f'<p class="note">E = (I<sub>{c.b.name}</sub> − I<sub>{c.a.name}</sub>) / '
        f"(I<sub>{c.b.name}</sub> + I<sub>{c.a.name}</sub>), I being a head's importance: red "
        f"heads matter more in {c.b.name}, blue ones more in {c.a.name}, blank ones are in neither "
        "circuit. Stars are called.</p>",
        draw(effect_map(c), f"effect-{name}"),
        "<h3>Heads</h3>",
        html_table(
            (
                "head",
                "change",
                "called",
                f"inclusion in {c.a.name}",
                f"in {c.b.name}",
                "p",
                f"importance in {c.a.name}",
                f"in {c.b.name}",
                "effect E",
            ),
            [_head_cells(row) for row in head_list(c)],
        ),
    ]
    for kind in ("gained", "lost"):
        edges = edge_list(c, kind)
        title = f"Edges {kind}: {len(edges)}"
        if len(edges) > PAGE_EDGES:
            title += f", the first {PAGE_EDGES}; all are in comparison.json"
        heading = (
            "edge",
            f"inclusion in {c.a.name}",
            f"in {c.b.name}",
            f"score in {c.a.name}",
            f"in {c.b.name}",
        )
        lines = [
            [
                e["edge"],
                _share(e["inclusion_a"]),
                _share(e["inclusion_b"]),
                f"{e['score_a']:.3g}",
                f"{e['score_b']:.3g}",
            ]
            for e in edges[:PAGE_EDGES]
        ]
        if edges:
            parts.append(f"<h3>{title}</h3>{html_table(heading, lines)}")
        else:
            parts.append(f"<p>No edges {kind}.</p>")
    return "\n".join(parts)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _head_cells(row: dict[str, Any]) -> list[str]:
    p = row["p_value"]
    return [
        short_head_name(row["head"]),
        row["change"],
        "yes" if row["called"] else "-",
        _share(row["inclusion_a"]),
        _share(row["inclusion_b"]),
        "-" if math.isnan(p) else f"{p:.2g}",
        f"{row['importance_a']:.4f}",
        f"{row['importance_b']:.4f}",
        number(Estimate(**row["effect"])),
    ]


def _provenance(findings: Findings) -> str:
    from analysis.reporting.html import html_table

    rows = []
    models = findings.made_with.get("models", {})
    for s in findings.subjects:
        found = _subject_json(s)
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
    details = "\n".join(
        f"{s.name}: {key} = {value}"
        for s in findings.subjects
        for key, value in _subject_json(s).items()
        if key in ("graph", "settings", "selection", "origin", "file_hash")
    )
    about = f"q = {findings.q}\nseed = {findings.seed}\ncode = {code_version()}"
    return (
        f"{html_table(heading, rows)}<details><summary>Settings and versions</summary>"
        f"<pre>{escape(about)}\n{escape(details)}</pre></details>"
    )


GUIDE = """<p class="note">L3H2 is head 2 of layer 3, counted from 0. <b>Gained</b>: in the second
circuit and not in the first (emergent, where the first is the base); <b>lost</b>: the reverse;
<b>shared</b>: in both. Brackets are 95 % bootstrap intervals over pairs. <b>Inclusion</b> is the
share of the resamples whose circuit holds the head or edge. <b>Called</b> heads changed beyond the
false-discovery rate. <b>By chance</b> is what two resamples of one circuit give, with nothing
changed; excess turnover is turnover beyond that.</p>"""


def write_page(path: Path, findings: Findings) -> None:
    """Write the page."""
    from plotly.offline import get_plotlyjs

    from analysis.reporting.html import STYLE, html_table

    def draw(figure: Figure, name: str) -> str:
        how: dict[str, Any] = {"include_plotlyjs": False, "full_html": False, "div_id": name}
        return str(figure.to_html(**how, config={"displayModeBar": False, "responsive": True}))

    names = [subject.name for subject in findings.subjects]
    title = " · ".join(subject.label for subject in findings.subjects)
    subjects = []
    for s in findings.subjects:
        kept = "-" if s.record is None else number(s.record.faithfulness())
        heads = findings.profiles[s.name].heads
        size = f"{sum(layer.value for layer in heads):.0f}"
        subjects.append([s.name, s.label, str(int(s.edges.sum())), size, kept])
    heading, *rows = cross_rows(findings, names)
    empty = "".join(f'<p class="note">{escape(text)}.</p>' for text in reasons(findings))
    cares = "".join(f"<p><b>Take care:</b> {escape(text)}</p>" for text in findings.warnings)
    sections = "\n".join(_section(c, draw) for c in findings.comparisons)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}td:first-child, th:first-child {{ text-align: left; white-space: pre; }}</style>
<script>{get_plotlyjs()}</script></head><body>
<h1>Circuits compared</h1>
{html_table(("", "circuit", "edges", "heads", "faithfulness"), subjects)}
{cares}{GUIDE}
{sections}
<h2>By layer</h2>
{draw(profile_figure(findings), "layers")}
<h2>Cross-faithfulness</h2>
<p class="note">The circuit of a row in the model of a column: 1 is the whole model, 0 the empty
circuit. <b>less own</b>: less that of the model's own circuit, on the same pairs. <b>random</b>: a
random circuit of as many edges.</p>
{html_table(heading, rows)}{empty}
<h2>Where it comes from</h2>
{_provenance(findings)}
</body></html>
"""
    with atomic_write(path) as draft:
        draft.write_text(page, encoding="utf-8")

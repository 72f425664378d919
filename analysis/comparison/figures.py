"""The charts of a comparison, built with plotly.

    effect_map        layers x heads coloured by the effect E between two circuits
    profile_figure    heads and importance by layer, a line for each circuit

The only text from files in them are the labels of circuits, which are escaped.
"""

from __future__ import annotations

import math
from html import escape

from plotly.graph_objects import Figure, Heatmap
from plotly.subplots import make_subplots

from analysis.comparison.definitions import Comparison
from analysis.comparison.findings import Findings
from analysis.comparison.rows import head_list
from analysis.models.graph import Graph, short_head_name
from analysis.reporting.figures.head_map import rectangle
from analysis.reporting.figures.style import BLUE, BROWN, GROUND, INK, PALE
from analysis.reporting.text import count, has_interval, number

# seen on a light ground and on a dark one
COLOURS = ("#3b8ad8", "#d9663a", "#2e9c77", "#b0822a", "#9a76d1", "#7b8794", "#d0609f", "#5b8a99")


def effect_map(c: Comparison) -> Figure:
    """Layers x heads coloured by E; stars are called, heads in neither circuit are blank.

    Where layers have different numbers of heads, those are grey, and blank is no head.
    """
    graph = c.a.graph
    places = dict(zip(graph.head_names, range(graph.n_heads_total), strict=True))
    values: list[float | None] = [None] * graph.n_heads_total
    texts, stars = [""] * len(values), []
    # what each cell shows and says
    for row in head_list(c):
        index = places[row.head]
        values[index] = row.effect.value
        texts[index] = (
            f"{short_head_name(row.head)}: {row.change}{', called' * bool(row.called)}"
            f"<br>E {number(row.effect)}"
        )
        if not math.isnan(row.effect.value):
            texts[index] += f"<br>importance {row.importance_a:.4f} → {row.importance_b:.4f}"
        if has_interval(row.effect):
            texts[index] += f"<br>inclusion {row.inclusion_a:.2f} → {row.inclusion_b:.2f}"
        if row.called:
            stars.append(graph.heads[index])
    # the map, then the stars on it
    of_heads = Heatmap(
        z=rectangle(graph, values),
        text=[[text or "" for text in row] for row in rectangle(graph, texts)],
        hovertemplate="%{text}<extra></extra>",
        zmin=-1,
        zmax=1,
        colorscale=[[0, BROWN], [0.5, GROUND], [1, BLUE]],
        xgap=1,
        ygap=1,
        colorbar={"title": "E", "tickvals": [-1, 0, 1]},
        hoverongaps=False,
    )
    figure = Figure([*_ground(graph), of_heads])
    mark = {"symbol": "star", "size": 9, "color": INK, "line": {"color": "white", "width": 1}}
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
    _lay_out(figure, 140 + 22 * graph.n_layers)
    return figure


def _ground(graph: Graph) -> list[Heatmap]:
    """A grey ground of the heads, to tell them from what is none; nothing in a full rectangle."""
    if not graph.is_ragged:
        return []
    there = rectangle(graph, [0] * graph.n_heads_total)
    how = {"colorscale": [[0, PALE], [1, PALE]], "showscale": False, "hoverinfo": "skip"}
    return [Heatmap(z=there, xgap=1, ygap=1, **how)]


def profile_figure(findings: Findings) -> Figure:
    """Heads and mean importance by layer, with intervals, a line for each subject.

    It has a gap at a layer without heads.
    """
    titles = ("heads in the circuit", "mean importance of a head")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles)
    many = len(findings.subjects)
    for index, subject in enumerate(findings.subjects):
        found, colour = findings.profiles[subject.name], COLOURS[index]
        counts = [shape.n_heads for shape in subject.graph.shapes]
        for column, numbers in enumerate((found.heads, found.importance), start=1):
            ends = None
            if any(map(has_interval, numbers)):
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
                y=[x.value if heads else None for x, heads in zip(numbers, counts, strict=True)],
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
    )

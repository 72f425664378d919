"""The counts of heads under other selections of the circuit."""

from __future__ import annotations

from typing import Any

from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from analysis.heads.changes import CHANGES
from analysis.reporting.figures.style import COLOURS, DASHES, GREY, MARKS, finish
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Setting


def sensitivity_chart(run: Run) -> Figure:
    """Counts of the last checkpoint for circuits of other sizes and of other thresholds."""
    last, own_line = run.points[-1], {"color": GREY, "dash": "dash", "width": 1.5}
    titles = {"top_n": "edges (top_n)", "tau": "smallest score of an edge (tau)"}
    figure = make_subplots(2, 2, shared_xaxes="columns", shared_yaxes="rows", vertical_spacing=0.06)
    for column, (by, title) in enumerate(titles.items(), start=1):
        settings = [s for s in last.sensitivity if s.by == by and s.value > 0]
        values = [setting.value for setting in settings]
        for row, names in enumerate((("in_circuit", "retained"), CHANGES), start=1):
            for name in names:
                _sweep(figure, row, column, settings, name)
        labels = [f"{value:.0f}" if by == "top_n" else f"{value:.2g}" for value in values]
        figure.update_xaxes(type="log", tickvals=values, ticktext=labels, col=column)
        figure.update_xaxes(title_text=title, row=2, col=column)
        if own := last.record.selection[by]:
            figure.add_vline(x=own, line=own_line, col=column)
    figure.add_scatter(x=[None], y=[None], mode="lines", line=own_line, name="this run")
    figure.update_yaxes(title_text="heads", col=1).update_yaxes(rangemode="tozero")
    return finish(figure, 460, legend={"tracegroupgap": 0})


def _sweep(figure: Figure, row: int, column: int, settings: list[Setting], name: str) -> None:
    """One count over a sweep with its interval; the called heads as marks without a line."""
    counts, xs = [setting.counts[name] for setting in settings], [s.value for s in settings]
    how: dict[str, Any] = {"x": xs, "row": row, "col": column, "showlegend": column == 1}
    above = [count.high - count.value for count in counts]
    below = [count.value - count.low for count in counts]
    figure.add_scatter(
        y=[count.value for count in counts],
        name=name.replace("_", " "),
        legendgroup=name,
        **how,
        error_y={"array": above, "arrayminus": below, "thickness": 1, "width": 4},
        mode="lines+markers",
        line={"color": COLOURS[name], "dash": DASHES.get(name, "solid")},
    )
    if name in CHANGES:
        title = f"{name}, called"
        symbol, colour = MARKS[title]
        figure.add_scatter(
            y=[setting.called[name] for setting in settings],
            name=title,
            legendgroup=title,
            **how,
            mode="markers",
            marker={"symbol": symbol, "color": colour, "size": 9},
        )

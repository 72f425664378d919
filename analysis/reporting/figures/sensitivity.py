"""The counts of heads under other selections of the circuit."""

from __future__ import annotations

from typing import Any

from plotly.graph_objects import Figure

from analysis.heads.changes import CHANGES
from analysis.reporting.figures.panels import suffix
from analysis.reporting.figures.style import COLOURS, DASHES, GREY, MARKS, Content, finish
from analysis.trajectories.run import Run
from analysis.trajectories.sensitivity import Setting

OWN = {"color": GREY, "dash": "dash", "width": 1.5}
WIDE, TALL = ([0, 0.45], [0.55, 1]), ([0.53, 1], [0, 0.47])  # of the columns and of the rows
TITLES = {"top_n": "edges (top_n)", "tau": "smallest score of an edge (tau)"}


def sensitivity_chart(run: Run) -> Figure:
    """Counts of the last checkpoint for circuits of other sizes and of other thresholds."""
    return Figure(sensitivity_content(run))


def sensitivity_content(run: Run) -> Content:
    """`sensitivity_chart` in plain values."""
    last = run.points[-1]
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"shapes": [], "legend": {"tracegroupgap": 0}}
    for column, by in enumerate(TITLES):
        settings = [s for s in last.sensitivity if s.by == by and s.value > 0]
        own = last.record.selection[by]
        for row, names in enumerate((("in_circuit", "retained"), CHANGES)):
            place = suffix(2 * row + column + 1)
            at = {"xaxis": f"x{place}", "yaxis": f"y{place}", "showlegend": column == 0}
            for name in names:
                traces += _sweep(settings, name, at)
            layout[f"xaxis{place}"] = _sizes(by, [s.value for s in settings], row, column)
            layout[f"yaxis{place}"] = _heads(row, column)
            if own:
                ends = {"x0": own, "x1": own, "y0": 0, "y1": 1}
                refs = {"xref": f"x{place}", "yref": f"y{place} domain"}
                layout["shapes"].append({"type": "line", "line": OWN, **ends, **refs})
    this = {"type": "scatter", "x": [None], "y": [None], "mode": "lines", "line": OWN}
    return finish([*traces, {**this, "name": "this run"}], 460, **layout)


def _sizes(by: str, values: list[float], row: int, column: int) -> dict[str, Any]:
    """An axis of sizes or thresholds; the lower one of a column is labelled."""
    labels = [f"{value:.0f}" if by == "top_n" else f"{value:.2g}" for value in values]
    ticks = {"type": "log", "tickvals": values, "ticktext": labels}
    upper = {"matches": f"x{3 + column}", "showticklabels": False}
    own = upper if row == 0 else {"title": {"text": TITLES[by]}}
    return {"anchor": f"y{suffix(2 * row + column + 1)}", "domain": WIDE[column], **ticks, **own}


def _heads(row: int, column: int) -> dict[str, Any]:
    """An axis of counts; the left one of a row is labelled."""
    right = {"matches": f"y{suffix(2 * row + 1)}", "showticklabels": False}
    own = right if column else {"title": {"text": "heads"}}
    place = {"anchor": f"x{suffix(2 * row + column + 1)}", "domain": TALL[row]}
    return {**place, "rangemode": "tozero", **own}


def _sweep(settings: list[Setting], name: str, at: dict[str, Any]) -> list[dict[str, Any]]:
    """One count over a sweep with its interval; the called heads as marks without a line."""
    counts = [setting.counts[name] for setting in settings]
    how = {"type": "scatter", "x": [setting.value for setting in settings], **at}
    above = [count.high - count.value for count in counts]
    below = [count.value - count.low for count in counts]
    found = [
        {
            **how,
            "y": [count.value for count in counts],
            "name": name.replace("_", " "),
            "legendgroup": name,
            "error_y": {"array": above, "arrayminus": below, "thickness": 1, "width": 4},
            "mode": "lines+markers",
            "line": {"color": COLOURS[name], "dash": DASHES.get(name, "solid")},
        }
    ]
    if name in CHANGES:
        title = f"{name}, called"
        symbol, colour = MARKS[title]
        marks = {
            **how,
            "y": [setting.called[name] for setting in settings],
            "name": title,
            "legendgroup": title,
            "mode": "markers",
            "marker": {"symbol": symbol, "color": colour, "size": 9},
        }
        found.append(marks)
    return found

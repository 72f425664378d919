"""The charts of a report, built with plotly from a run as analysis/reporting/tables.py reads it.

    trajectory_chart     heads, turnover, overlap with the base, loss or reward, pass@1 over steps
    cohort_chart         emergent heads by the checkpoint at which each emerged first
    head_map             layers x heads with a slider over the checkpoints
    sensitivity_chart    the last checkpoint's counts under other sizes and thresholds
    faithfulness_chart   how well each circuit stands for its model

Colours follow arXiv 2509.25758: emergent heads blue, heads of the base's circuit red and dashed, a
black outline for those of the final circuit. A shaded band or a bar is always a 95 % interval.
Charts hold numbers and names of heads alone, never text from a model or a configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plotly.colors import sample_colorscale
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from analysis.heads.changes import CHANGES
from analysis.intervals import Estimate
from analysis.models.graph import short_head_name
from analysis.reporting.tables import task_names
from analysis.reporting.text import estimate_in, number
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point, Setting

RED, BLUE, BROWN, INK, GREY = "#d62f2f", "#1f6fd6", "#8a5a12", "#1f2933", "#8a929b"
PURPLE, GREEN, PALE = "#8a63c7", "#1b7f5c", "#c5ccd3"
COLOURS = {
    "in_circuit": INK,
    "retained": RED,
    "emergent": BLUE,
    "pruned": BROWN,
    "transient": PURPLE,
    "excess turnover": INK,
    "Jaccard": GREEN,
    "weighted overlap": PURPLE,
    "held-out": GREEN,
    "faithfulness": GREEN,
}
DASHES = {"retained": "dash", "weighted overlap": "dash"}
MARKS = {
    "emergent": ("star-open", BLUE),
    "emergent, called": ("star", BLUE),
    "retained": ("circle", RED),
    "pruned": ("x-thin", BROWN),
    "pruned, called": ("x", BROWN),
    "transient": ("diamond-open", PURPLE),
}
SCALE = [[0, "#f2f2ee"], [0.1, "#fbe3ae"], [0.4, "#f0a830"], [1, "#b85c00"]]  # few heads lead
CELL = 28  # height of a layer of the map in pixels
Draw = Callable[[Figure, int], None]


def _finish(figure: Figure, height: int, **layout: Any) -> Figure:
    margin = {"l": 70, "r": 10, "t": 10, "b": 40}
    return figure.update_layout(
        template="plotly_white", height=height, **{"margin": margin, **layout}
    )


def _stack(panels: Sequence[Draw], height: int) -> Figure:
    """Panels over one axis of steps, each with a legend of its own beside it."""
    figure = make_subplots(rows=len(panels), shared_xaxes=True, vertical_spacing=0.12 / len(panels))
    for row, draw in enumerate(panels, start=1):
        draw(figure, row)
        top = figure.get_subplot(row, 1).yaxis.domain[1]
        place = {"y": top, "yanchor": "top", "x": 1.01, "tracegroupgap": 0}
        figure.update_layout({f"legend{row}": place})
    figure.update_xaxes(title_text="step", row=len(panels), col=1)
    return _finish(figure, height * len(panels) + 60, hovermode="x unified")


def _curve(
    figure: Figure,
    row: int,
    steps: Sequence[int],
    values: Sequence[Estimate],
    name: str,
    digits: int = 2,
) -> None:
    """A line with its interval as a band; what is undefined is left out."""
    known = [(x, v) for x, v in zip(steps, values, strict=True) if math.isfinite(v.value)]
    xs, ends = [x for x, _ in known], [(v.low, v.high) for _, v in known]
    colour, group = COLOURS.get(name, COLOURS["held-out"]), {"legendgroup": name}
    band = [high for _, high in ends] + [low for low, _ in reversed(ends)]
    _plain(
        figure,
        row,
        xs + xs[::-1],
        band,
        name,
        **group,
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        line_width=0,
        hoverinfo="skip",
        showlegend=False,
    )
    shown = f"%{{y:.{digits}f}} [%{{customdata[0]:.{digits}f}}, %{{customdata[1]:.{digits}f}}]"
    _plain(
        figure,
        row,
        xs,
        [v.value for _, v in known],
        name.replace("_", " "),
        **group,
        mode="lines+markers",
        marker_size=5,
        customdata=ends,
        hovertemplate=shown,
        line={"color": colour, "dash": DASHES.get(name, "solid")},
    )


def _panel(
    title: str,
    steps: Sequence[int],
    curves: Mapping[str, Sequence[Estimate]],
    level: float | None = None,
    **axis: Any,
) -> Draw:
    """Curves by name, with a thin line at a level to compare them with."""

    def draw(figure: Figure, row: int) -> None:
        for name, values in curves.items():
            _curve(figure, row, steps, values, name)
        if level is not None:
            figure.add_hline(y=level, line={"color": GREY, "width": 1}, row=row, col=1)
        figure.update_yaxes(title_text=title, row=row, col=1, **axis)

    return draw


def _plain(figure: Figure, row: int, xs: Any, ys: Any, name: str, **how: Any) -> None:
    """A line without an interval."""
    how = {"mode": "lines", "row": row, "col": 1, "legend": f"legend{row}", **how}
    figure.add_scatter(x=xs, y=ys, name=name, **how)


def _counts(run: Run, names: Sequence[str]) -> Draw:
    """Raw counts with bands; the settled ones dotted; for the emergent ones their chance."""
    points, steps = run.points, [point.step for point in run.points]

    def draw(figure: Figure, row: int) -> None:
        for name in names:
            _curve(figure, row, steps, [point.counts[name] for point in points], name, digits=0)
            if name in points[0].settled:
                settled = [int(point.settled[name].sum()) for point in points]
                line = {"color": COLOURS[name], "dash": "dot", "width": 1.5}
                _plain(figure, row, steps, settled, f"{name}, settled", line=line)
        if "emergent" in names:
            level = [points[0].change.null["emergent"][0]] * len(steps)
            line = {"color": GREY, "width": 1}
            _plain(figure, row, steps, level, "emergent by chance", line=line)
        figure.update_yaxes(title_text="heads", rangemode="tozero", row=row, col=1)

    return draw


def _signal(run: Run) -> Draw:
    """The loss or reward as logged, and its mean since the checkpoint before."""
    means = [(row.step, row.signal) for row in run.rows if row.signal is not None]
    modes = {"as logged": "lines", "mean": "lines+markers"}

    def draw(figure: Figure, row: int) -> None:
        for name, colour, values in (("as logged", PALE, run.logged), ("mean", INK, means)):
            xs, ys = [x for x, _ in values], [y for _, y in values]
            _plain(figure, row, xs, ys, name, mode=modes[name], line_color=colour)
        figure.update_yaxes(title_text=run.signal_name, row=row, col=1)

    return draw


def trajectory_chart(run: Run) -> Figure:
    """Everything that is followed over the checkpoints, one panel under another."""
    points, panels = run.points, []
    steps = [point.step for point in points]
    if points:
        panels.append(_counts(run, ("in_circuit", "retained")))
        panels.append(_counts(run, ("emergent", "pruned", "transient")))
    if turns := [point.turn.excess_turnover for point in points if point.turn is not None]:
        excess = {"excess turnover": turns}
        panels.append(_panel("excess<br>turnover", steps[1:], excess, level=0))
    if points:
        found = {
            "Jaccard": [point.change.jaccard for point in points],
            "weighted overlap": [point.change.overlap for point in points],
        }
        panels.append(_panel("likeness<br>to base", steps, found, range=[0, 1.05]))
    if run.logged:
        panels.append(_signal(run))
    if scored := [(row.step, row.evaluation) for row in run.rows if row.evaluation is not None]:
        values = [estimate_in(e, "pass_at_1") for _, e in scored]
        score = {"held-out": values}
        panels.append(_panel("pass@1", [s for s, _ in scored], score, rangemode="tozero"))
    for task in task_names(run.rows):
        found_at = [(row.step, row.tasks[task]) for row in run.rows if task in row.tasks]
        values = [estimate_in(e, "pass_at_1") for _, e in found_at]
        title = f"pass@1<br>{task}"
        panels.append(_panel(title, [s for s, _ in found_at], {task: values}, rangemode="tozero"))
    return _stack(panels, 180)


def cohort_chart(run: Run) -> Figure:
    """Emergent heads at each checkpoint, stacked by the step of their first emergence."""
    points, figure = run.points, Figure()
    steps = [point.step for point in points]
    cohorts = sorted({int(step) for p in points for step in p.first[p.masks["emergent"]]})
    for place, step in enumerate(cohorts):
        members = [p.masks["emergent"] & (p.first == step) for p in points]
        settled = [m & p.settled["emergent"] for m, p in zip(members, points, strict=True)]
        figure.add_bar(
            x=list(map(str, steps)),
            y=[int(mask.sum()) for mask in members],
            name=str(step),
            customdata=[int(mask.sum()) for mask in settled],
            showlegend=True,
            marker_color=sample_colorscale("Blues", 1 - 0.75 * place / len(cohorts))[0],
            hovertemplate="%{y}, of which settled: %{customdata}",
        )
    figure.add_scatter(
        x=list(map(str, steps)),
        y=[int(point.settled["emergent"].sum()) for point in points],
        name="settled",
        mode="lines+markers",
        line={"color": INK, "dash": "dot"},
        marker_size=5,
    )
    figure.update_xaxes(title_text="step", type="category")
    figure.update_yaxes(title_text="emergent heads", rangemode="tozero")
    legend = {"title_text": "first emergent at", "traceorder": "normal"}
    return _finish(figure, 320, barmode="stack", hovermode="x unified", legend=legend)


def head_map(run: Run) -> Figure:
    """Layers x heads: colour is importance, marks are states, the slider selects a checkpoint."""
    points = run.points
    graph, last = points[0].record.graph, len(points) - 1
    highest = max(float(point.record.importance.max()) for point in points)
    traces, steps = [], []
    for index, point in enumerate(points):
        traces += [{**trace, "visible": index == last} for trace in _map_of(point)]
        visible = [i == index for i in range(len(points)) for _ in ("cells", *MARKS)]
        shown = {"method": "restyle", "args": ["visible", [*visible, True, True]]}
        steps.append({**shown, "label": str(point.step)})
    first, final = (points[i].record.in_circuit.nonzero().flatten().tolist() for i in (0, last))
    black, red = {"color": "black", "width": 1.5}, {"color": RED, "width": 1.5, "dash": "3px,2px"}
    outer = _outlines(final, graph.n_heads, 0.46, black, "final circuit")
    figure = Figure([*traces, outer, _outlines(first, graph.n_heads, 0.36, red, "base's circuit")])
    axes: dict[str, Any] = {"dtick": 1, "showgrid": False, "zeroline": False}
    figure.update_xaxes(title_text="head", range=[-0.55, graph.n_heads - 0.45], **axes)
    figure.update_yaxes(title_text="layer", range=[-0.55, graph.n_layers - 0.45], **axes)
    bar = {"title_text": "importance", "thickness": 15, "lenmode": "pixels", "len": 170}
    slider = {"pad": {"t": 50}, "currentvalue": {"prefix": "step "}}
    colours = {"cmin": 0, "cmax": highest, "colorscale": SCALE}
    return _finish(
        figure,
        CELL * graph.n_layers + 270,
        sliders=[{**slider, "active": last, "steps": steps}],
        coloraxis={**colours, "colorbar": {**bar, "y": 1, "yanchor": "top"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 60, "r": 10, "t": 70, "b": 10},
    )


def _map_of(point: Point) -> list[dict[str, Any]]:
    """One checkpoint of the map: the coloured cells, then one trace of marks for each of MARKS."""
    width = point.record.graph.n_heads
    hover = _hover(point)
    cells = {
        "type": "heatmap",
        "coloraxis": "coloraxis",
        "xgap": 2,
        "ygap": 2,
        "z": point.record.importance.view(-1, width).tolist(),
        "text": [hover[start : start + width] for start in range(0, len(hover), width)],
        "hovertemplate": "%{text}<extra></extra>",
    }
    return [cells, *(_marks(point, name) for name in MARKS)]


def _marks(point: Point, name: str) -> dict[str, Any]:
    """The heads of one kind as marks; those of a change that is called are not open but filled."""
    state, only_called = name.removesuffix(", called"), name.endswith(", called")
    mask = point.masks[state]
    if state in CHANGES:
        called = point.change.called[state]
        mask = mask & (called if only_called else ~called)
    places, width = mask.nonzero().flatten().tolist(), point.record.graph.n_heads
    symbol, colour = MARKS[name]
    size, line = (5, 0) if state == "retained" else (10, 0 if only_called else 2)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "hoverinfo": "skip",
        "x": [place % width for place in places] or [None],
        "y": [place // width for place in places] or [None],
        "marker": {
            "symbol": symbol,
            "color": colour,
            "size": size,
            "line": {"width": line, "color": colour},
        },
    }


def _hover(point: Point) -> list[str]:
    """What the map says about each head."""
    change, names = point.change, point.record.graph.head_names
    called = change.called["emergent"] | change.called["pruned"]
    columns = (
        change.inclusion_before,
        change.inclusion_after,
        change.p_value,
        point.record.importance,
        change.effect,
        change.effect_low,
        change.effect_high,
    )
    found = []
    for index, numbers in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        before, after, p, importance, *effect = numbers
        state = point.state(index) or "never in a circuit"
        found.append(
            f"<b>{short_head_name(names[index])}</b> {state}{', called' * bool(called[index])}"
            f"<br>inclusion {before:.2f} → {after:.2f}, p = {p:.2g}"
            f"<br>E = {number(Estimate(*effect))}<br>importance {importance:.4f}"
        )
    return found


def _outlines(
    places: list[int], width: int, reach: float, line: dict[str, Any], name: str
) -> dict[str, Any]:
    """Squares around cells as one line with gaps."""
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))
    path: list[tuple[float | None, float | None]] = [(None, None)]
    for place in places:
        y, x = divmod(place, width)
        path += [(x + reach * right, y + reach * up) for right, up in corners] + [(None, None)]
    return {
        "type": "scatter",
        "mode": "lines",
        "line": line,
        "name": name,
        "hoverinfo": "skip",
        "x": [x for x, _ in path],
        "y": [y for _, y in path],
    }


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
    return _finish(figure, 460, legend={"tracegroupgap": 0})


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


def faithfulness_chart(run: Run) -> Figure:
    """Faithfulness of each circuit, completeness gap of its scores, and its number of edges."""
    records = [point.record for point in run.points]
    steps = [record.step for record in records]
    faithful = {"faithfulness": [record.faithfulness() for record in records]}
    gaps = [record.completeness_gap for record in records]
    sizes = [float(record.n_edges) for record in records]

    def plain(title: str, numbers: list[float]) -> Draw:
        def draw(figure: Figure, row: int) -> None:
            how = {"mode": "lines+markers", "line_color": INK}
            _plain(figure, row, steps, numbers, title.replace("<br>", " "), **how)
            figure.update_yaxes(title_text=title, rangemode="tozero", row=row, col=1)

        return draw

    panels = _panel("faithfulness", steps, faithful, level=1), plain("completeness<br>gap", gaps)
    return _stack([*panels, plain("edges", sizes)], 140)

"""What is followed over the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Sequence

from plotly.colors import sample_colorscale
from plotly.graph_objects import Figure

from analysis.reporting.figures.panels import Draw, Stack, curve, panel, plain, stack
from analysis.reporting.figures.style import COLOURS, GREY, INK, PALE, Content, finish
from analysis.reporting.tables import task_names
from analysis.reporting.text import estimate_in
from analysis.trajectories.reference import Reference
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import sizes_by_step


def _counts(run: Run, names: Sequence[str]) -> Draw:
    """Raw counts with bands; the settled ones dotted; for the emergent ones their chance."""
    points, steps = run.points, [point.step for point in run.points]

    def draw(figure: Stack, row: int) -> None:
        for name in names:
            curve(figure, row, steps, [point.counts[name] for point in points], name, digits=0)
            if name in points[0].settled:
                settled = [int(point.settled[name].sum()) for point in points]
                line = {"color": COLOURS[name], "dash": "dot", "width": 1.5}
                plain(figure, row, steps, settled, f"{name}, settled", line=line)
        if "emergent" in names and points[0].change.is_tested:
            level = [points[0].change.null["emergent"][0]] * len(steps)
            line = {"color": GREY, "width": 1}
            plain(figure, row, steps, level, "emergent by chance", line=line)
        figure.axes[row] = {"title": {"text": "heads"}, "rangemode": "tozero"}

    return draw


def _signal(run: Run) -> Draw:
    """The loss or reward as logged, and its mean since the checkpoint before."""
    means = [(row.step, row.signal) for row in run.rows if row.signal is not None]
    modes = {"as logged": "lines", "mean": "lines+markers"}

    def draw(figure: Stack, row: int) -> None:
        for name, colour, values in (("as logged", PALE, run.logged), ("mean", INK, means)):
            xs, ys = [x for x, _ in values], [y for _, y in values]
            plain(figure, row, xs, ys, name, mode=modes[name], line={"color": colour})
        figure.axes[row] = {"title": {"text": run.signal_name}}

    return draw


def _likeness_to_reference(reference: Reference, steps: Sequence[int]) -> Draw:
    """To a second model; the thin line is what two samples of one model would have."""
    found = {"Jaccard": reference.jaccard, "weighted overlap": reference.overlap}
    likeness = panel("likeness to<br>reference", steps, found, range=[0, 1.05])

    def draw(figure: Stack, row: int) -> None:
        likeness(figure, row)
        line = {"color": GREY, "width": 1}
        plain(figure, row, steps, reference.ceiling, "Jaccard of one model's samples", line=line)

    return draw


def trajectory_chart(run: Run) -> Figure:
    """Everything that is followed over the checkpoints, one panel under another."""
    return Figure(trajectory_content(run))


def trajectory_content(run: Run) -> Content:
    """`trajectory_chart` in plain values."""
    points, panels = run.points, []
    steps = [point.step for point in points]
    if points:
        panels.append(_counts(run, ("in_circuit", "retained")))
        panels.append(_counts(run, ("emergent", "pruned", "transient")))
    if turns := [point.turn.excess_turnover for point in points if point.turn is not None]:
        excess = {"excess turnover": turns}
        panels.append(panel("excess<br>turnover", steps[1:], excess, level=0))
    if points:
        found = {
            "Jaccard": [point.change.jaccard for point in points],
            "weighted overlap": [point.change.overlap for point in points],
        }
        panels.append(panel("likeness<br>to base", steps, found, range=[0, 1.05]))
    measured = [(p.step, kl) for p in points if (kl := p.record.kl_from_base()) is not None]
    if measured:
        kl_curve = {"KL from the base, nats": [kl for _, kl in measured]}
        found_at_steps = [step for step, _ in measured]
        panels.append(panel("KL from<br>base", found_at_steps, kl_curve, rangemode="tozero"))
    if run.reference is not None and run.reference.jaccard:
        panels.append(_likeness_to_reference(run.reference, steps))
    if run.logged:
        panels.append(_signal(run))
    if scored := [(row.step, row.evaluation) for row in run.rows if row.evaluation is not None]:
        values = [estimate_in(e, "pass_at_1") for _, e in scored]
        score = {"held-out": values}
        panels.append(panel("pass@1", [s for s, _ in scored], score, rangemode="tozero"))
    for task in task_names(run.rows):
        found_at = [(row.step, row.tasks[task]) for row in run.rows if task in row.tasks]
        values = [estimate_in(e, "pass_at_1") for _, e in found_at]
        title = f"pass@1<br>{task}"
        panels.append(panel(title, [s for s, _ in found_at], {task: values}, rangemode="tozero"))
    return stack(panels, 180)


def cohort_chart(run: Run) -> Figure:
    """Emergent heads at each checkpoint, stacked by the step of their first emergence."""
    return Figure(cohort_content(run))


def cohort_content(run: Run) -> Content:
    """`cohort_chart` in plain values: there may be as many bars as the square of checkpoints."""
    points, traces = run.points, []
    steps = [str(point.step) for point in points]
    cohorts = sorted({step for point in points for step in point.cohorts})
    settled = [sizes_by_step(p.first, p.masks["emergent"] & p.settled["emergent"]) for p in points]
    for place, step in enumerate(cohorts):
        colour = sample_colorscale("Blues", 1 - 0.75 * place / len(cohorts))[0]
        bar = {
            "type": "bar",
            "x": steps,
            "y": [point.cohorts.get(step, 0) for point in points],
            "name": str(step),
            "customdata": [sizes.get(step, 0) for sizes in settled],
            "showlegend": True,
            "marker": {"color": colour},
            "hovertemplate": "%{y}, of which settled: %{customdata}",
        }
        traces.append(bar)
    line = {
        "type": "scatter",
        "x": steps,
        "y": [int(point.settled["emergent"].sum()) for point in points],
        "name": "settled",
        "mode": "lines+markers",
        "line": {"color": INK, "dash": "dot"},
        "marker": {"size": 5},
    }
    return finish(
        [*traces, line],
        320,
        xaxis={"title": {"text": "step"}, "type": "category"},
        yaxis={"title": {"text": "emergent heads"}, "rangemode": "tozero"},
        barmode="stack",
        hovermode="x unified",
        legend={"title": {"text": "first emergent at"}, "traceorder": "normal"},
    )


def faithfulness_chart(run: Run) -> Figure:
    """Faithfulness of each circuit, completeness gap of its scores, and its number of edges."""
    return Figure(faithfulness_content(run))


def faithfulness_content(run: Run) -> Content:
    """`faithfulness_chart` in plain values."""
    records = [point.record for point in run.points]
    steps = [record.step for record in records]
    faithful = {"faithfulness": [record.faithfulness() for record in records]}
    gaps = [record.completeness_gap for record in records]
    sizes = [float(record.n_edges) for record in records]

    def bare(title: str, numbers: list[float]) -> Draw:
        def draw(figure: Stack, row: int) -> None:
            how = {"mode": "lines+markers", "line": {"color": INK}}
            plain(figure, row, steps, numbers, title.replace("<br>", " "), **how)
            figure.axes[row] = {"title": {"text": title}, "rangemode": "tozero"}

        return draw

    panels = panel("faithfulness", steps, faithful, level=1), bare("completeness<br>gap", gaps)
    return stack([*panels, bare("edges", sizes)], 140)

"""The curves over a run's checkpoints, by name: what tiles and the trajectory are drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.heads.changes import CHANGES
from analysis.intervals import Estimate, bare
from analysis.reporting.dashboard.form import Column
from analysis.reporting.dashboard.packing import known
from analysis.reporting.tables import task_names
from analysis.reporting.text import estimate_in
from analysis.trajectories.run import Row, Run
from analysis.trajectories.trajectory import STATES, Point

NOTHING = bare(math.nan)
COUNT, PERCENT, NUMBER = "count", "percent", "number"  # how a value is written


def shown_rows(run: Run) -> list[Row]:
    """The checkpoints of the page: those with heads, or, without any, all."""
    return [row for row in run.rows if row.point is not None] or run.rows


def columns(run: Run) -> dict[str, Column]:
    """Every curve that the run has, first those that tell how well the model does."""
    rows = shown_rows(run)
    points = [row.point for row in rows if row.point is not None]
    found = {**_scores(run, rows)}
    if points:
        found |= _counts(points) | _of_records(points) | _changes(points)
    return found


def column(
    label: str, form: str, values: Sequence[Estimate | None], term: str | None = None
) -> Column:
    """A curve; one without any interval has no ends."""
    estimates = [NOTHING if value is None else value for value in values]
    found: Column = {
        "label": label,
        "form": form,
        "term": term,
        "value": known(each.value for each in estimates),
    }
    low, high = (known(getattr(each, end) for each in estimates) for end in ("low", "high"))
    if any(end is not None for end in (*low, *high)):
        found |= {"low": low, "high": high}
    return found


def _scores(run: Run, rows: Sequence[Row]) -> dict[str, Column]:
    """Held-out pass@1, benchmarks, and the mean of the signal since the checkpoint before."""
    found = {}
    if any(row.evaluation is not None for row in rows):
        values = [None if row.evaluation is None else _pass_at_1(row.evaluation) for row in rows]
        found["score"] = column("held-out pass@1", PERCENT, values, "pass@1")
    for task in task_names(rows):
        scores = [_pass_at_1(row.tasks[task]) if task in row.tasks else None for row in rows]
        found[f"task/{task}"] = column(f"pass@1 on {task}", PERCENT, scores, "pass@1")
    if any(row.signal is not None for row in rows):
        means = [None if row.signal is None else bare(row.signal) for row in rows]
        found["signal"] = column(f"mean {run.signal_name}", NUMBER, means, "signal")
    return found


def _pass_at_1(evaluation: dict[str, float]) -> Estimate:
    return estimate_in(evaluation, "pass_at_1")


def _counts(points: Sequence[Point]) -> dict[str, Column]:
    """Heads in each state, called and settled."""
    found = {name: column(name, COUNT, [p.counts[name] for p in points], name) for name in STATES}
    found["in_circuit"] |= {"label": "heads in the circuit", "term": "circuit"}
    tested = points[0].change.is_tested
    for name in CHANGES:
        if tested:
            mean, high = points[0].change.null[name]
            found[name] |= {
                "chance": known([mean] * len(points)),
                "chance_high": known([high] * len(points)),
            }
            called = [bare(int(p.change.called[name].sum())) for p in points]
            found[f"called_{name}"] = column(f"called {name}", COUNT, called, "called")
    for name in (*CHANGES, "transient"):
        settled = [bare(int(p.settled[name].sum())) for p in points]
        found[f"settled_{name}"] = column(f"settled {name}", COUNT, settled, "settled")
    return found


def _of_records(points: Sequence[Point]) -> dict[str, Column]:
    """What each record says of its circuit and its model."""
    records = [point.record for point in points]
    edges = [bare(record.n_edges) for record in records]
    found = {
        "faithfulness": column(
            "faithfulness", NUMBER, [record.faithfulness() for record in records], "faithfulness"
        ),
        "edges": column("edges in the circuit", COUNT, edges, "circuit"),
    }
    if any(record.sizes is not None for record in records):
        sizes = [record.size() for record in records]
        found["size"] = column("edges of the smallest faithful circuit", COUNT, sizes, "size")
    if any(record.held_out is not None for record in records):
        gaps = [None if r.held_out is None else r.metric_gap() for r in records]
        found["gap"] = column("gap", NUMBER, gaps, "gap")
    missed = [bare(record.completeness_gap) for record in records]
    found["completeness_gap"] = column("completeness gap", PERCENT, missed, "completeness gap")
    if any(record.kl is not None for record in records):
        kl = [record.kl_from_base() for record in records]
        found["kl"] = column("KL from the base, nats", NUMBER, kl, "KL from the base")
    return found


def _changes(points: Sequence[Point]) -> dict[str, Column]:
    """How alike circuits are: to the base's, and to that of the checkpoint before."""
    turns = [point.turn for point in points]
    turnover = [None if turn is None else turn.turnover for turn in turns]
    excess = [None if turn is None else turn.excess_turnover for turn in turns]
    jaccard = [point.change.jaccard for point in points]
    overlap = [point.change.overlap for point in points]
    return {
        "turnover": column("turnover", NUMBER, turnover, "turnover"),
        "excess_turnover": column("excess turnover", NUMBER, excess, "excess turnover"),
        "jaccard": column("likeness to the base (Jaccard)", NUMBER, jaccard, "Jaccard"),
        "overlap": column("weighted overlap with the base", NUMBER, overlap, "weighted overlap"),
    }

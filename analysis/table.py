"""The checkpoints of a run as rows, and those rows as a table of plain text for a terminal.

A row joins what a run wrote about one checkpoint: the training signal since the checkpoint before,
held-out pass@1, and the states of the heads (analysis/trajectory.py) against the base, which is
step 0. A run may have records without evaluations or evaluations without records.
"""

from __future__ import annotations

import logging
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from analysis.graph import short_head_name
from analysis.heads import FDR
from analysis.intervals import Association, Estimate, estimate
from analysis.records import COMPARABLE, invalid_steps, read_metrics, read_records
from analysis.roles import TITLES, Roles, no_cells, read_roles
from analysis.score_files import evaluated_tasks, read_evaluations, read_interventions
from analysis.trajectory import HYSTERESIS, Known, Point, associations, ever_in_circuit, trajectory

log = logging.getLogger(__name__)

SIGNALS = {"sft": "loss", "grpo": "reward", "track": None}
WIDTH = 80
HEAD_TITLES = (
    *("head", "state", "settled", "first at step", "inclusion: base", "final", "p"),
    *("importance: base", "final", "effect E", "edges in", "out", "depth"),
    *TITLES.values(),
)


@dataclass(frozen=True)
class Row:
    """One checkpoint.

    invalid: why the checkpoint could not be measured.
    signal: mean of the loss or reward logged after the previous checkpoint, up to this one; None
        if there was none. evaluation: held-out pass@1 as written. point: heads against the base.
    """

    step: int
    signal: float | None
    evaluation: dict[str, Any] | None
    point: Point | None
    invalid: str | None = None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)  # benchmark -> as evaluation


def read_config(run: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        ValueError: the directory is missing or holds no run, or it trains in an unknown way.
    """
    path = run / "config.yaml"
    if not run.is_dir():
        raise ValueError(f"there is no run {run}; give a directory that training wrote")
    if not path.exists():
        raise ValueError(f"{run} holds no config.yaml, so it is not a run; give runs/NAME itself")
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    kind = (config.get("train") or {}).get("kind")
    if kind not in SIGNALS:
        raise ValueError(f"{path} has train.kind {kind!r}; it must be one of {', '.join(SIGNALS)}")
    return config


def signal_name(run: Path) -> str | None:
    """What the training of a run is followed by: `loss` for SFT, `reward` for GRPO, else None."""
    return SIGNALS[read_config(run)["train"]["kind"]]


def tracked_points(run: Path, known: Known | None = None) -> list[Point]:
    """The trajectory of a run; no points, with a warning, if the base is not among its records.

    known: see `trajectory`.
    """
    records = read_records(run)
    if records and records[0].step != 0:
        log.warning("%s has no record of step 0, the base; no head's state is known", run)
        return []
    tracking = read_config(run).get("tracking") or {}
    how = {"q": tracking.get("fdr", FDR), "hysteresis": tracking.get("hysteresis", HYSTERESIS)}
    return trajectory(records, **how, known=known) if records else []


def checkpoint_rows(run: Path, points: Sequence[Point] | None = None) -> list[Row]:
    """Every checkpoint of a run that has a record or an evaluation, by step.

    `points` are the run's trajectory, if it has been read already.

    Raises:
        ValueError: the directory holds no run, or the run has no checkpoint yet.
    """
    name = signal_name(run)
    measured = {p.step: p for p in (tracked_points(run) if points is None else points)}
    evaluations, metrics = read_evaluations(run), read_metrics(run)
    tasks = {task: read_evaluations(run, task) for task in evaluated_tasks(run)}
    broken = invalid_steps(run)
    steps = sorted({*measured, *evaluations, *broken, *(s for t in tasks.values() for s in t)})
    if not steps:
        raise ValueError(
            f"{run} has neither heads/step-* nor evaluations/step-*; wait for a checkpoint, "
            "or switch on tracking or evaluation and train again"
        )
    rows = []
    for previous, step in zip([0, *steps], steps, strict=False):
        logged = [v[name] for s, v in metrics.items() if previous < s <= step and name in v]
        signal = math.fsum(logged) / len(logged) if logged else None
        scored = {task: scores[step] for task, scores in tasks.items() if step in scores}
        rows.append(
            Row(
                step, signal, evaluations.get(step), measured.get(step), broken.get(step), scored
            )
        )  # fmt: skip
    return rows


@dataclass(frozen=True)
class Run:
    """Everything read from a run. `label` is its name, with its path where names are equal.

    signal_name: `loss`, `reward` or, for checkpoints tracked afterwards, None.
    logged: step and value of the loss or reward, as the trainer logged it.
    interventions: results of `python -m analysis.evaluate` on its checkpoints.
    roles: of the heads at the last record; None if they were not measured.
    """

    label: str
    signal_name: str | None
    config_text: str
    rows: list[Row]
    logged: list[tuple[int, float]]
    interventions: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: Roles | None = None

    @property
    def points(self) -> list[Point]:
        """The trajectory."""
        return [row.point for row in self.rows if row.point is not None]

    @property
    def associations(self) -> dict[str, Association]:
        """Of the signal with each curve of the heads."""
        return associations(self.points, [r.signal for r in self.rows if r.point is not None])

    def final_heads(self, state: str) -> list[str]:
        """Heads in a raw state at the last record, as L3H2; none if no head was tracked."""
        return self.points[-1].names(self.points[-1].masks[state]) if self.points else []


def with_inclusion(run: Run, state: str) -> str:
    """Heads in a raw state at the last record, with inclusion at base and then.

    `L3H2* (0.02 → 0.97)`; the star marks a head that is called.
    """
    change, mask = run.points[-1].change, run.points[-1].masks[state]
    called = change.called[state][mask].tolist()
    shares = (change.inclusion_before[mask].tolist(), change.inclusion_after[mask].tolist())
    found = zip(run.final_heads(state), called, *shares, strict=True)
    cells = [f"{name}{'*' * star} ({base:.2f} → {now:.2f})" for name, star, base, now in found]
    return ", ".join(cells) or "none"


def read_runs(paths: Sequence[Path], known: Known | None = None) -> list[Run]:
    """Read runs from their directories (see `checkpoint_rows` for what it raises).

    known: see `analysis.trajectory.trajectory`.
    """
    names = [str(read_config(path).get("name", path.name)) for path in paths]
    runs = []
    for path, name in zip(paths, names, strict=True):
        signal, rows = signal_name(path), checkpoint_rows(path, tracked_points(path, known))
        tracked = [row.step for row in rows if row.point is not None]
        metrics = sorted(read_metrics(path).items())
        run = Run(
            label=name if names.count(name) == 1 else f"{name} ({path})",
            signal_name=signal,
            config_text=(path / "config.yaml").read_text(encoding="utf-8"),
            rows=rows,
            logged=[(step, values[signal]) for step, values in metrics if signal in values],
            interventions=read_interventions(path),
            roles=read_roles(path, tracked[-1]) if tracked else None,
        )
        runs.append(run)
    return runs


def comparison(runs: Sequence[Run]) -> list[str]:
    """Sentences on which heads, emergent at the last record, tracked runs share or have alone.

    The last sentences name what two runs measured differently, if their heads can't be compared.
    """
    runs = [run for run in runs if run.points]
    if len(runs) < 2:
        return []
    everywhere = range(len(runs))
    emergent = [run.final_heads("emergent") for run in runs]
    groups: dict[tuple[int, ...], list[str]] = {tuple(everywhere): []}
    groups.update({(i,): [] for i in everywhere})
    for name in dict.fromkeys(name for names in emergent for name in names):
        groups.setdefault(tuple(i for i in everywhere if name in emergent[i]), []).append(name)
    lines = []
    for where, names in groups.items():
        scope = "in" if len(where) > 1 else "only in"
        labels = " and ".join(runs[i].label for i in where)
        lines.append(f"Emergent {scope} {labels}: {', '.join(names) or 'none'}.")
    first = runs[0].points[0].record
    for run in runs[1:]:
        other = run.points[0].record
        if differ := [w for w in COMPARABLE if getattr(first, w) != getattr(other, w)]:
            lines.append(
                f"Take care: {runs[0].label} and {run.label} differ in {', '.join(differ)}, so "
                "their heads do not answer the same question."
            )
    return lines


def format_interval(estimate: Estimate) -> str:
    """`12-16`."""
    return f"{estimate.low:.0f}-{estimate.high:.0f}"


def format_estimate(estimate: Estimate) -> str:
    """`14 [12-16]`."""
    return f"{estimate.value:.0f} [{format_interval(estimate)}]"


def format_score(evaluation: dict[str, Any]) -> str:
    """pass@1 in per cent with its interval: `41.2 [38-45]`."""
    value, low, high = (100 * evaluation[key] for key in ("pass_at_1", "low", "high"))
    return f"{value:.1f} [{low:.0f}-{high:.0f}]"


def format_called(point: Point) -> str:
    """Called emergent and pruned heads: `+9 -4`."""
    return " ".join(
        f"{sign}{int(point.change.called[name].sum())}"
        for sign, name in (("+", "emergent"), ("-", "pruned"))
    )


SHOWN = ("in_circuit", "emergent", "pruned")


def task_names(rows: Sequence[Row]) -> list[str]:
    """The benchmarks that some checkpoint was evaluated on."""
    return sorted({task for row in rows for task in row.tasks})


def task_table(rows: Sequence[Row]) -> list[list[str]]:
    """pass@1 on each benchmark: a heading, then a line for each checkpoint that has one."""
    tasks = task_names(rows)
    lines = [["checkpoint", *tasks]]
    for row in rows:
        if row.tasks:
            scores = [row.tasks.get(task) for task in tasks]
            cells = ["-" if score is None else format_score(score) for score in scores]
            lines.append([str(row.step), *cells])
    return lines


def _count_cells(row: Row) -> list[str]:
    if row.point is None:
        return ["-" if row.invalid is None else "invalid", *("-" for _ in SHOWN[1:])]
    return [format_estimate(row.point.counts[name]) for name in SHOWN]


def table_cells(rows: list[Row]) -> list[list[str]]:
    """The table without its heading, as text; `-` stands for what was not measured."""
    return [
        [
            str(row.step),
            "-" if row.signal is None else f"{row.signal:.3f}",
            "-" if row.evaluation is None else format_score(row.evaluation),
            *_count_cells(row),
            "-" if row.point is None else format_called(row.point),
        ]
        for row in rows
    ]


def head_rows(points: Sequence[Point], roles: Roles | None = None) -> list[list[str]]:
    """Every head that was in some circuit of a run, by HEAD_TITLES, the emergent ones first.

    The settled state is `-` for a head without one; p is that of the last change. `roles` are those
    at the last point.
    """
    base, last = points[0].record, points[-1]
    ranks = ("emergent", "retained", "pruned", "transient")
    r, change, depths = last.record.resampled, last.change, last.record.depths()
    found = []
    for index in ever_in_circuit(points).nonzero().flatten().tolist():
        inside = (point.step for point in points if point.masks["in_circuit"][index])
        state = last.state(index) or "-"
        settled = [name for name, mask in last.settled.items() if mask[index]]
        shares = [float(record.importance[index]) for record in (base, last.record)]
        kept = [float(x[index]) for x in (change.inclusion_before, change.inclusion_after)]
        ends = [float(x[index]) for x in (change.effect, change.effect_low, change.effect_high)]
        cells = [
            short_head_name(last.record.graph.head_names[index]),
            *(state, settled[0] if settled else "-", str(next(inside))),
            *(f"{x:.2f}" for x in kept),
            f"{float(change.p_value[index]):.2g}",
            *(f"{x:.4f}" for x in shares),
            f"{ends[0]:.2f} [{ends[1]:.2f}, {ends[2]:.2f}]",
            *(_format_degree(degree[:, index]) for degree in (r.in_degree, r.out_degree)),
            "-" if depths[index].isnan() else f"{float(depths[index]):.1f}",
            *(no_cells() if roles is None else roles.cells(index)),
        ]
        found.append((ranks.index(state), -shares[1], index, cells))
    return [cells for *_, cells in sorted(found)]


def _format_degree(degree: torch.Tensor) -> str:
    """`3 [1-5]`."""
    return format_estimate(estimate(degree.double()))


def head_cells(run: Run) -> list[list[str]]:
    """`head_rows` of a run."""
    return head_rows(run.points, run.roles)


def legend(rows: list[Row]) -> list[str]:
    """What the brackets and columns of a table mean, and what is wrong with invalid checkpoints."""
    lines = ["[low-high]: 95 % bootstrap interval, over pairs (heads) or problems (pass@1)."]
    if base := next((row.point for row in rows if row.point is not None), None):
        chance = " and ".join(
            f"{mean:.1f} {name} (97.5 % point {high:.0f})"
            for name, (mean, high) in base.change.null.items()
        )
        lines.append(
            "called: emergent (+) and pruned (-) heads beyond the run's false-discovery rate."
        )
        lines.append(f"By chance, two resamples of step {base.step} give {chance}.")
    lines += [f"invalid: at step {row.step} {row.invalid}." for row in rows if row.invalid]
    return lines


def format_table(rows: list[Row], signal_name: str | None) -> str:
    """The table of `checkpoint_rows` in plain text with its legend, in 80 columns."""
    upper = ["check-", "mean", "held-out", "heads in", "", "", ""]
    lower = ["point", signal_name or "signal", "pass@1 %", "circuit", *SHOWN[1:], "called"]
    lines = [upper, lower, *table_cells(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    text = [gap.join(map(str.rjust, line, widths)).rstrip() for line in lines]
    rule = "-" * (sum(widths) + len(gap) * (len(widths) - 1))
    notes = [part for line in legend(rows) for part in textwrap.wrap(line, WIDTH)]
    scores = _task_lines(rows)
    return "\n".join([*text[:2], rule, *text[2:], rule, *scores, *notes]) + "\n"


def _task_lines(rows: Sequence[Row]) -> list[str]:
    """pass@1 on benchmarks, below the table; nothing if there are none."""
    if not task_names(rows):
        return []
    lines = task_table(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.rjust, line, widths)).rstrip() for line in lines]
    return ["pass@1 %", *text, "-" * max(map(len, text))]

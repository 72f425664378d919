"""The checkpoints of a run as rows, and those rows as a table of plain text for a terminal.

A row joins what a run wrote about one checkpoint: the training signal since the checkpoint before,
held-out pass@1, and the states of the heads (analysis/trajectories/trajectory.py) against the base,
which is step 0. A run may have records without evaluations or evaluations without records.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import torch

from analysis.heads.roles import Roles
from analysis.heads.sample import sample_note
from analysis.intervals import Estimate, bare, percentile
from analysis.models.graph import Graph, head_name
from analysis.records.record import COMPARABLE
from analysis.records.run_file import RunFile
from analysis.reporting.behaviour import behaviour_lines
from analysis.reporting.kinds import kind_cell, kind_title, kinds_note
from analysis.reporting.needed import format_needed
from analysis.reporting.roles import TITLES, no_cells, role_cells
from analysis.reporting.same import TITLES as SAME_TITLES
from analysis.reporting.same import same_cells
from analysis.reporting.sums import sums_note
from analysis.reporting.text import (
    WIDTH,
    called_heads,
    chances,
    count,
    number,
    p_value,
    score,
    text_tables,
)
from analysis.trajectories.run import Row, Run, checkpoint_rows
from analysis.trajectories.trajectory import Point, ever_in_circuit

HEAD_TITLES = (
    *("head", "state", "settled", *SAME_TITLES),
    *("first at step", "inclusion: base", "final", "p"),
    *("importance: base", "final", "effect E", "edges in", "out", "depth"),
    *TITLES.values(),
)


def head_titles(graph: Graph) -> list[str]:
    """HEAD_TITLES, with the kind where heads are of two."""
    return [HEAD_TITLES[0], *kind_title(graph), *HEAD_TITLES[1:]]


def comparison(runs: Sequence[Run]) -> list[str]:
    """Sentences on heads, emergent at the last record, that runs share or only one of them has.

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
            cells = ["-" if found is None else score(found) for found in scores]
            lines.append([str(row.step), *cells])
    return lines


def _count_cells(row: Row) -> list[str]:
    if row.point is None:
        return ["-" if row.invalid is None else "invalid", *("-" for _ in SHOWN[1:])]
    return [count(row.point.counts[name]) for name in SHOWN]


def table_cells(rows: list[Row]) -> list[list[str]]:
    """The table without its heading, as text; `-` stands for what was not measured."""
    return [
        [
            str(row.step),
            "-" if row.signal is None else number(bare(row.signal), 3),
            "-" if row.evaluation is None else score(row.evaluation),
            *_count_cells(row),
            "-" if row.point is None else called_heads(row.point),
        ]
        for row in rows
    ]


def head_rows(points: Sequence[Point], roles: Roles | None = None) -> list[list[str]]:
    """Every head that was in some circuit of a run, by `head_titles`, the emergent ones first.

    The settled state is `-` for a head without one; p is that of the last change. `roles` are those
    at the last point.
    """
    base, last = points[0].record, points[-1]
    ranks = ("emergent", "retained", "pruned", "transient")
    r, change, depths = last.record.resamples, last.change, last.record.depths()
    found = []
    shown = ever_in_circuit(points).nonzero().flatten()
    degrees = [_with_ends(d[:, shown]).T.tolist() for d in (r.in_degree, r.out_degree)]
    settled = {
        head: name
        for name, mask in reversed(last.settled.items())
        for head in mask.nonzero().flatten().tolist()
    }
    columns = zip(
        *_of(shown, change.inclusion_before, change.inclusion_after),
        *_of(shown, last.record.importance, base.shares, last.record.shares),
        *_of(shown, change.effect, change.effect_low, change.effect_high),
        *_of(shown, last.entered, change.p_value, depths),
        *degrees,
        strict=True,
    )
    graph = last.record.graph
    for index, values in zip(shown.tolist(), columns, strict=True):
        before, after, rank, at_base, now, *effect, entered, p, depth, ins, outs = values
        state = last.states[index] or "-"
        cells = [
            head_name(graph.heads[index]),
            *kind_cell(graph, index),
            *(state, settled.get(index, "-"), *same_cells(last.record.same, index), str(entered)),
            *(f"{x:.2f}" if change.is_tested else "-" for x in (before, after)),
            p_value(p),
            *("-" if math.isnan(x) else f"{x:.4f}" for x in (at_base, now)),
            "-" if math.isnan(effect[0]) else number(Estimate(*effect)),
            *(count(Estimate(*degree)) for degree in (ins, outs)),
            "-" if math.isnan(depth) else f"{depth:.1f}",
            *(no_cells() if roles is None else role_cells(roles, index)),
        ]
        found.append((ranks.index(state), -rank, index, cells))
    return [cells for *_, cells in sorted(found)]


def _of(heads: torch.Tensor, *columns: torch.Tensor) -> list[list[Any]]:
    return [column[heads].tolist() for column in columns]


def _with_ends(table: torch.Tensor) -> torch.Tensor:
    """Row 0 of [1+R, M] and both ends of the interval of the others: float64 [3, M]."""
    values = table.double()
    return torch.cat([values[:1], percentile(values)])


def head_cells(run: Run) -> list[list[str]]:
    """`head_rows` of a run."""
    return head_rows(run.points, run.roles)


def legend(rows: list[Row]) -> list[str]:
    """What the brackets and columns of a table mean, and what is wrong with invalid checkpoints."""
    lines = ["[ ]: 95 % bootstrap interval, over pairs (heads) or problems (pass@1)."]
    base = next((row.point for row in rows if row.point is not None), None)
    if base is not None and (note := sample_note(base.record.n_pairs, base.record.distinct)):
        lines.append(note)
    if base is not None and base.change.is_tested:
        lines.append(
            "called: emergent (+) and pruned (-) heads beyond the false-discovery rate of the run, "
            "over all its checkpoints; more checkpoints can change it."
        )
        lines.append(
            f"By chance, two resamples of step {base.step} give {chances(base.change.null)}."
        )
    if base is not None and (note := kinds_note(base.record.graph)):
        lines.append(note)
    if note := sums_note(row.point.record for row in rows if row.point is not None):
        lines.append(note)
    lines += [f"invalid: at step {row.step} {row.invalid}." for row in rows if row.invalid]
    return lines


def parts_note(file: RunFile) -> list[str]:
    """The sizes of what is made into pairs, trained on and held out; nothing if unknown."""
    if file.parts is None:
        return []
    sizes = ", ".join(f"{size} {name}" for name, size in file.parts.items())
    return [f"{sizes}; no question is in two of these parts."]


def format_table(run: Run) -> str:
    """The checkpoints of a run in plain text with a legend, in 80 columns.

    Raises:
        ValueError: it has none yet.
    """
    rows = checkpoint_rows(run)
    upper = ["check-", "mean", "held-out", "heads in", "", "", ""]
    lower = ["point", run.signal_name or "signal", "pass@1 %", "circuit", *SHOWN[1:], "called"]
    lines = [upper, lower, *table_cells(rows)]
    text = text_tables(lines, "r", heading=2)
    said = [*legend(rows), *parts_note(run.file)]
    notes = [part for line in said for part in textwrap.wrap(line, WIDTH)]
    below = [*_task_lines(rows), *behaviour_lines(rows)]
    asked = [line for found in run.needed.values() for line in ["", *format_needed(found)]]
    return "\n".join([*text, text[2], *below, *notes, *asked]) + "\n"


def _task_lines(rows: Sequence[Row]) -> list[str]:
    """pass@1 on benchmarks, below the table; nothing if there are none."""
    if not task_names(rows):
        return []
    text = text_tables(task_table(rows))
    return ["pass@1 %", *text, "-" * max(map(len, text))]

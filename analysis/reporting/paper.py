"""The tables of "Thinking Sparks!" (arXiv 2509.25758) with our numbers beside the paper's.

Ours are the records of tracked runs, told apart by the `name` in their run.json, and the
scores.json of evaluations with a label (those of `headlab study` have one). What has not
been run is `-`. The paper's numbers are in analysis/reporting/paper_tables.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reporting.paper_tables import (
    BASE_HEADS,
    HEADS,
    NAMES,
    PROBLEMS,
    TABLES,
    Group,
    Table,
    standard_error,
)
from analysis.reporting.text import count, estimate_in, markdown_table, percent, score, text_table

if TYPE_CHECKING:
    import torch

    from analysis.trajectories.trajectory import Point

log = logging.getLogger(__name__)

FORMATS = ("text", "markdown")
HEAD_TITLES = (
    *("heads", "paper", "union", "emergent"),
    *("last circuit", "emergent", "called", "named"),
)
CELL_TITLES = ("", "", "paper", "SE", "ours [95 %]", "ours - none", "random - none")
HEAD_NOTES = (
    "paper: heads in circuits on AIME 2024, by our reading unions over checkpoints. Ours: the same",
    "union, and that of emergent heads; then the last checkpoint only, with 95 % bootstrap",
    "intervals over pairs, and how many of its emergent heads are called;",
    "named: of the five heads that the paper names, those in our union. GRPO OpenR1: the paper has",
    "two learning rates and one count, and does not say for which; it is printed for both.",
)
CELL_NOTES = (
    "pass@1 in %. SE: standard error of the paper's number if it is one sample of each problem; <:",
    "it is a mean over samples, and this an upper bound. Differences are paired, on the same",
    "problems; random: as many random heads in each layer, mean over sets. [ ]: 95 % bootstrap.",
    "An SE of 0 is not certainty: 0 of 30 problems goes with a rate of up to 11.6 % (95 %).",
)

Results = dict[tuple[str, str], dict[str, Any]]  # by label and task, as scores.json holds them
Found = dict[str, Any] | None  # a part of such a result


def directories(given: object) -> list[Path]:
    """The directories that runs= names.

    Raises:
        ValueError: one is missing, or nothing matches.
    """
    found: list[Path] = []
    for entry in given if isinstance(given, list) else [str(given)]:
        path = Path(str(entry)).expanduser()
        if any(mark in str(entry) for mark in "*?["):
            top = Path("/") if path.is_absolute() else Path()
            there = sorted(p for p in top.glob(str(path).lstrip("/")) if p.is_dir())
        else:
            there = [path] if path.is_dir() else []
        if not there:
            raise ValueError(f"there is no directory {entry}; give runs=DIR, where runs are kept")
        found += there
    return found


def _below(places: Sequence[Path], name: str) -> list[Path]:
    """All files of a name, each once."""
    return list({p.resolve(): p for place in places for p in sorted(place.rglob(name))}.values())


def read_results(places: Sequence[Path]) -> Results:
    """Every labelled evaluation below some directories.

    Raises:
        ValueError: two stand for the same cell.
    """
    from analysis.prompts.benchmarks import slug
    from analysis.records.evaluations import read_results as read

    found: Results = {}
    where: dict[tuple[str, str], Path] = {}
    for path in _below(places, "scores.json"):
        try:
            result = read(path)
        except ValueError as error:
            log.warning("left out: %s", error)
            continue
        if not result["label"]:
            continue
        cell = (str(result["label"]), slug(str(result["task"])))
        if cell in found:
            raise ValueError(
                f"{where[cell]} and {path} both stand for {' on '.join(cell)}; name directories "
                "that hold one of them: runs=[DIR,DIR,...]"
            )
        found[cell], where[cell] = result, path
    return found


def tracked_runs(places: Sequence[Path]) -> list[tuple[Path, str]]:
    """Directory and name (in a study, STUDY/NAME) of every tracked run below some directories.

    Records in a directory that does not say that it is a run are left out, with a warning.
    """
    from analysis.records.run_file import RunFile

    found = []
    for run in dict.fromkeys(record.parents[2] for record in _below(places, "record.json")):
        try:
            found.append((run, _name(run, RunFile.read(run).name)))
        except ValueError as error:
            log.warning("left out: %s", error)
    return found


def _name(run: Path, name: str) -> str:
    from analysis.records.run_file import RunFile, is_run

    study = run.resolve().parent
    above = RunFile.read(study) if is_run(study) else None
    return f"{above.name}/{name}" if above is not None and above.kind == "study" else name


def _signed(found: Mapping[str, Any] | None) -> str:
    """A difference in per cent: `-4.2 [-12, 3]`."""
    return "-" if found is None else percent(estimate_in(found), ends=0, sign=True)


def _paper(text: str | None, task: str) -> tuple[str, str]:
    """The paper's number and its standard error."""
    if text is None:
        return "-", "-"
    error, exact = standard_error(text, PROBLEMS[task])
    return text, f"{'' if exact else '<'}{error:.1f}"


def cell(group: Group, row: str, task: str, results: Results) -> tuple[Found, Found, Found]:
    """Ours in a cell: score, difference from the unchanged model, that of random heads (or None).

    The unchanged model is part of every evaluation of a change, so it needs none of its own.
    """
    result = results.get((f"{group.label}/{row}", task))
    if result is None and row == group.none:
        rows = (results.get((f"{group.label}/{other}", task)) for other in group.rows)
        changed = next((r for r in rows if r is not None and r["comparisons"]), None)
        return (None if changed is None else changed["conditions"]["none"]), None, None
    if result is None:
        return None, None, None
    conditions, comparisons = result["conditions"], result["comparisons"]
    score = conditions.get("intervention", conditions["none"])
    return score, comparisons.get("effect"), comparisons.get("control")


def cell_rows(table: Table, results: Results) -> list[list[str]]:
    """A table as lines of CELL_TITLES; tasks that we have and the paper has not come last."""
    lines = []
    for group in table.groups:
        there = {task for label, task in results if label.startswith(f"{group.label}/")}
        tasks = [*table.tasks, *sorted(there - set(table.tasks))]
        lines.append([group.title, *[""] * (len(CELL_TITLES) - 1)])
        for row, printed in group.rows.items():
            numbers = dict(zip(table.tasks, printed, strict=True))
            for index, task in enumerate(tasks):
                found, effect, control = cell(group, row, task, results)
                title = f"  {row}" if index == 0 else ""
                name = NAMES.get(task, task)
                number = _paper(numbers.get(task), task)
                ours = "-" if found is None else score(found)
                lines.append([title, name, *number, ours, _signed(effect), _signed(control)])
    return lines


def head_rows(runs: Sequence[tuple[Path, str]]) -> tuple[list[list[str]], list[str]]:
    """The counts of heads as lines of HEAD_TITLES; and what run each line is of.

    Runs that stand for no row of the paper come last, under their own names.
    """
    from analysis.trajectories.run import Run

    points = {run: Run.read(run).points for run, _ in runs}
    later = [(run, name) for run, name in runs if len(points[run]) > 1]
    lines, notes, shown = [], [], set()
    for paper in HEADS:
        mine = [run for run, name in later if name.rpartition("/")[2].startswith(paper.run)]
        for run in mine:
            lines.append([paper.row, str(paper.count), *_counts(points[run], paper.names)])
            notes.append(f"{paper.row}: {run}")
        if not mine:
            lines.append([paper.row, str(paper.count), *["-"] * (len(HEAD_TITLES) - 2)])
        shown.update(mine)
    first = next(iter([run for run, _ in later if run in shown]), None)
    base = ["-"] * (len(HEAD_TITLES) - 2)
    if first is not None:
        base = _base_counts(points[first][0], BASE_HEADS.names)
        notes.insert(0, f"base: step 0 of {first}")
    lines.insert(0, [BASE_HEADS.row, str(BASE_HEADS.count), *base])
    for run, name in later:
        if run not in shown:
            lines.append([name, "-", *_counts(points[run], ())])
            notes.append(f"{name}: {run}")
    return lines, notes


def _named(point: Point, mask: torch.Tensor, names: Sequence[str]) -> str:
    return f"{len(set(names) & set(point.names(mask)))}" if names else "-"


def _base_counts(base: Point, names: Sequence[str]) -> list[str]:
    inside = base.masks["in_circuit"]
    size = count(base.counts["in_circuit"])
    return [str(int(inside.sum())), "-", size, "-", "-", _named(base, inside, names)]


def _counts(points: Sequence[Point], names: Sequence[str]) -> list[str]:
    """Cells of a run: the base is not part of its unions."""
    import torch

    trained, last = points[1:], points[-1]
    union = {
        state: torch.stack([point.masks[state] for point in trained]).any(0)
        for state in ("in_circuit", "emergent")
    }
    return [
        *(str(int(mask.sum())) for mask in union.values()),
        *(count(last.counts[state]) for state in union),
        str(int(last.change.called["emergent"].sum())) if last.change.is_tested else "-",
        _named(last, union["in_circuit"], names),
    ]


def _text(rows: Sequence[Sequence[str]]) -> list[str]:
    return text_table(rows, "llr")


def format_tables(runs: Sequence[tuple[Path, str]], results: Results, format: str = "text") -> str:
    """All tables, each with its notes."""
    draw, mark = (markdown_table, "## ") if format == "markdown" else (_text, "")
    counted, of_runs = head_rows(runs)
    parts = [("Heads in circuits", [HEAD_TITLES, *counted], [*HEAD_NOTES, *of_runs])]
    for table in TABLES:
        notes = [*CELL_NOTES, *table.notes]
        parts.append((table.title, [CELL_TITLES, *cell_rows(table, results)], notes))
    lines = []
    for title, rows, notes in parts:
        lines += [f"{mark}{title}", "", *draw(rows), "", *notes, "", ""]
    return "\n".join(lines).rstrip() + "\n"

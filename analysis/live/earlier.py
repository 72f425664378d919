"""A directory that a training uses again: what another one left is put aside, never mixed or lost.

    OUTPUT/earlier-1/    what the first training left of itself, a run that can be read

A training that begins at step 0 puts all of it aside; one that is resumed at a step, the records
after that step.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from analysis.heads.kept_patterns import patterns_path
from analysis.heads.roles import roles_path
from analysis.records.needed import needed_path
from analysis.records.record import Record
from analysis.records.record_files import read_record, record_dir, recorded_steps

log = logging.getLogger(__name__)

# of a run, and not of a step (docs/architecture.md)
ABOUT = (
    *("run.json", "base.json", "config.yaml", "pairs.jsonl", "pairs.json", "base_pairs.jsonl"),
    "metrics.jsonl",
)
SHOWN = (
    *("trajectory.json", "report.html", "finished.json", "alerts.jsonl"),
    *("wandb-id", "wandb-published.json", "wandb-view.json", "mirrors.jsonl"),
)
STEPS = ("heads", "roles", "patterns", "needed", "evaluations", "reference")


def put_aside(run: Path, step: int, is_ours: Callable[[Record], bool]) -> Path | None:
    """Put aside what a training that begins at `step` did not write; where it is then.

    is_ours: whether the record of step 0 is of the model that the training begins with, on the same
    pairs and in the same way; such a record is kept.
    """
    steps = recorded_steps(run / "heads")
    if step > 0:
        return _later(run, step) if any(later > step for later in steps) else None
    if not steps and not (run / "metrics.jsonl").exists():
        for name in (*ABOUT, *SHOWN):  # of a training that took no step
            (run / name).unlink(missing_ok=True)
        return None
    same = _is_base(run, is_ours)
    if same and steps == [0] and not (run / "metrics.jsonl").exists():
        return None
    aside = _free(run)
    for name in (*ABOUT, *SHOWN, *STEPS):
        if (run / name).exists():
            (run / name).rename(aside / name)
    if same:
        _link(record_dir(aside, 0), record_dir(run, 0))
        for path in (roles_path, patterns_path):
            _link(path(aside, 0), path(run, 0))
    _say(run, aside, "the records of an earlier training")
    return aside


def _is_base(run: Path, is_ours: Callable[[Record], bool]) -> bool:
    try:
        base = read_record(run, 0)
    except ValueError:  # a damaged one is none
        return False
    return base is not None and is_ours(base)


def _later(run: Path, step: int) -> Path:
    """Put the records after a step aside, with what they are to be read with."""
    aside = _free(run)
    for name in ABOUT:
        if (run / name).exists():
            shutil.copy2(run / name, aside / name)
    for recorded in recorded_steps(run / "heads"):
        for place, there in (
            (record_dir(run, recorded), record_dir(aside, recorded)),
            (roles_path(run, recorded), roles_path(aside, recorded)),
            (patterns_path(run, recorded), patterns_path(aside, recorded)),
            (needed_path(run, recorded), needed_path(aside, recorded)),
        ):
            if recorded <= step:
                _link(place, there)
            elif place.exists():
                there.parent.mkdir(parents=True, exist_ok=True)
                place.rename(there)
    _say(run, aside, f"the records after step {step}")
    return aside


def _free(run: Path) -> Path:
    number = 1
    while (run / f"earlier-{number}").exists():
        number += 1
    aside = run / f"earlier-{number}"
    aside.mkdir(parents=True)
    return aside


def _say(run: Path, aside: Path, what: str) -> None:
    log.warning("%s has %s: they are put aside in %s", run, what, aside.name)


def _link(source: Path, target: Path) -> None:
    """The same file or directory at a second place; files are never changed once they stand."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)

"""Print what the heads of a circuit attend to and copy, measured first where that is missing.

    headlab roles run=runs/my-run step=last

Definitions and sources are in analysis/heads/attention.py (patterns), analysis/heads/copying.py and
analysis/prompts/regions.py (which tokens count).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cli import key
from analysis.heads.roles import Roles, head_roles, read_roles, write_roles
from analysis.ranges import COUNT
from analysis.records.recorded import model_of, pairs_of
from analysis.reporting.roles import format_roles

if TYPE_CHECKING:
    from analysis.records.record import Record


@dataclass
class Options:
    run: str = key("directory of a run that was tracked")
    step: str = key("a recorded step, or last", "last")
    batch_size: int = key("prompts in one pass; does not change the result", 8, COUNT)
    redo: bool = key("measure again where the roles are written already", False)


def _record(run: Path, step: str) -> Record:
    """The record of a step that a command line names.

    Raises:
        ValueError: there is none, or it is invalid.
    """
    from analysis.records.record_files import invalid_steps, read_record, recorded_steps

    bad = invalid_steps(run)
    valid = [number for number in recorded_steps(run / "heads") if number not in bad]
    number = valid[-1] if step == "last" and valid else int(step) if step.isdecimal() else None
    record = None if number is None else read_record(run, number)
    if record is None:
        known = ", ".join(map(str, valid)) or "none"
        raise ValueError(f"{run} has no valid record of step {step}; it has: {known}")
    return record


def measure(run: Path, record: Record, batch_size: int) -> Roles:
    """The roles at a record, from its checkpoint, written beside it, as are attention patterns.

    Raises:
        ValueError: the checkpoint is gone, or it or the pairs are not those of the record.
    """
    from analysis.heads.kept_patterns import head_patterns, write_patterns
    from analysis.models.loading import load_tokenizer_if_any
    from analysis.records.checkpoints import find_model

    pairs, model = pairs_of(run, record), model_of(run, record)
    named = find_model(f"{run}@{record.step}")
    tokenizer = load_tokenizer_if_any(named.base or named.path)
    sample = record.settings["resamples"], record.settings["seed"]
    roles = head_roles(model, pairs, tokenizer, batch_size, *sample)
    write_roles(run, record.step, pairs.hash, roles)
    write_patterns(run, record.step, head_patterns(model, pairs, tokenizer, batch_size))
    return roles


def act(options: Options) -> None:
    """Print the roles of a step, measured now if they are not there."""
    run = Path(options.run)
    if not run.is_dir():
        raise ValueError(f"there is no run {run}; give a directory that tracking wrote")
    record = _record(run, options.step)
    roles = None if options.redo else read_roles(run, record.step)
    if roles is None:
        roles = measure(run, record, options.batch_size)
    print(format_roles(roles, record))

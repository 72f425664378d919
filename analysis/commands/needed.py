"""Are the heads that a run calls emergent needed? Take them out, and random heads to compare.

    headlab needed run=runs/my-run step=last

The called heads of a checkpoint are put at their mean over the clean prompts of the run's pairs;
the run's metric is read there, and the same is done to random sets of as many heads in the same
layers, and in the base (analysis/interventions/needed.py has the definitions). The result is
printed and written to RUN/needed/step-000040.json, which the run's report shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cli import key
from analysis.ranges import COUNT, NATURAL, SEED
from analysis.records.recorded import model_of, pairs_of

if TYPE_CHECKING:
    from analysis.prompts.pairs import Pairs
    from analysis.records.needed import Needed
    from analysis.records.record import Record
    from analysis.trajectories.trajectory import Point


@dataclass
class Options:
    run: str = key("directory of a run that was tracked, with its checkpoints")
    step: str = key("a recorded step, or last", "last")
    heads: str = key(
        "called_emergent, emergent, retained, in_circuit, called_pruned or pruned heads of that "
        "step, or heads: L3H2,L5H1",
        "called_emergent",
    )
    most: int | None = key(
        "only so many, the most important; default: all, or as many as leave fair random sets",
        None,
        COUNT,
    )
    controls: int = key("random sets of heads", 20, NATURAL)
    base: bool = key("take the same heads out of the base too", True)
    pairs: str | None = key("another file of pairs to measure on; default: the run's own", None)
    backups: bool = key(
        "ask too which heads the model leans on more without them; two attributions more",
        True,
    )
    batch_size: int = key("pairs in one pass; does not change the result", 8, COUNT)
    seed: int = key("of the random sets and the resamples", 0, SEED)
    out: str | None = key("file for the result; default: RUN/needed/step-N.json", None)


def points_at(run: Path, step: str) -> tuple[Point, Point]:
    """The base, and the point of a run's trajectory that a command line names.

    Raises:
        ValueError: there is none.
    """
    from analysis.trajectories.run import Run

    points = {str(point.step): point for point in Run.read(run).points}
    named = next(reversed(points), step) if step == "last" else step
    if named not in points:
        raise ValueError(
            f"{run} has no valid record of step {step}; it has: {', '.join(points) or 'none'}"
        )
    return points["0"], points[named]


def needed(options: Options) -> Needed:
    """Measure, without writing anything.

    Raises:
        ValueError: there is no such run, step, head, checkpoint or pairs file, or a checkpoint has
            other weights than its record.
    """
    from analysis.intervals import FEWEST
    from analysis.interventions.backups import NoAmounts, backups_of
    from analysis.interventions.needed_run import in_base, measure, noted, question
    from analysis.records.run_file import RunFile

    run = Path(options.run)
    base, point = points_at(run, options.step)
    asked = question(base, point, options.heads, options.most, options.controls, options.seed)
    if not asked.heads:
        return asked.plan
    record = point.record
    pairs = pairs_of(run, record) if options.pairs is None else _pairs(options, record)
    model = model_of(run, record)
    how = (options.batch_size, int(record.settings["resamples"]), options.seed)
    found = measure(asked, pairs, model, *how)
    if options.backups and pairs.n_distinct < FEWEST:
        found = noted(found, "one distinct pair can't tell backups from noise")
    elif options.backups:
        q = RunFile.read(run).fdr
        asked_of = (asked.heads, record.settings, options.batch_size, q)
        try:
            found = replace(found, backups=backups_of(model, pairs, *asked_of))
        except NoAmounts as error:
            found = noted(found, f"no backups: {error}")
    del model  # so that there is one model at a time
    if options.base and record.step:
        found = in_base(found, asked, pairs, partial(model_of, run, base.record), *how)
    return found


def _pairs(options: Options, record: Record) -> Pairs:
    """Other pairs than the run's own."""
    from analysis.models.loading import load_tokenizer
    from analysis.prompts.pairs import Pairs, holds_text
    from analysis.records.checkpoints import find_model

    file = Path(str(options.pairs))
    if not file.is_file():
        raise ValueError(f"there is no pairs file {file}")
    named = find_model(f"{options.run}@{record.step}")
    tokenizer = load_tokenizer(named.path, named.base) if holds_text(file) else None
    return Pairs.load(file, tokenizer, record.settings["metric"])


def act(options: Options) -> None:
    """Measure, print and write; bring the run's report up to date."""
    from transformers.utils import logging as transformers_logging

    from analysis.files import write_json
    from analysis.records.needed import as_json, write_needed
    from analysis.reporting.needed import format_needed
    from analysis.reporting.present import present

    transformers_logging.disable_progress_bar()
    found = needed(options)
    print("\n".join(format_needed(found)))
    if not found.heads and found.of != "called_emergent":
        return  # what was measured of the called heads stays
    if options.out is not None:
        write_json(Path(options.out), as_json(found))
        print(f"wrote {options.out}")
    else:
        print(f"wrote {write_needed(Path(options.run), found)}")
        present(Path(options.run))

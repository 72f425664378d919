"""Do two metrics find the same heads? Track a run's checkpoints under a second one, and compare.

    headlab agreement run=runs/my-run metric=logit_diff

The checkpoints that a run still has are tracked again, on the same pairs and with the same settings
but for the metric, into RUN/metrics/METRIC, which is a run of its own (headlab report run=...).
Then for each step: how many heads either metric finds, raw and called, how many both, and what two
random sets of these sizes would have in common. A step that was measured before is not measured
again. `logit_diff` and `nll` need pairs with a target, `logit_diff` a foil as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cli import key
from analysis.ranges import COUNT

if TYPE_CHECKING:
    from analysis.prompts.pairs import Pair
    from analysis.records.record import Record

log = logging.getLogger(__name__)


@dataclass
class Options:
    run: str = key("directory of a run that was tracked, with its checkpoints")
    metric: str = key("the second metric: kl, logit_diff or nll", "logit_diff")
    out: str | None = key("the run under it; default: RUN/metrics/METRIC", None)
    batch_size: int = key("pairs in one pass; does not change the result", 8, COUNT)
    device: str = key("cpu, cuda:7, ...; default: a GPU if there is one", "auto")


def check_pairs(pairs: Sequence[Pair], metric: str, path: Path) -> None:
    """Raise ValueError unless the pairs hold what a metric reads."""
    wanted = {"logit_diff": ("target_id", "foil_id"), "nll": ("target_id",)}.get(metric, ())
    for index, pair in enumerate(pairs):
        lacking = [name for name in wanted if getattr(pair, name) is None]
        if metric == "nll" and None not in pair.labels:
            continue
        if lacking:
            raise ValueError(
                f"pair {index} of {path} has no {lacking[0]}, which {metric} needs; "
                "track the run on pairs that have it"
            )


def track_under(metric: str, run: Path, records: list[Record], out: Path, o: Options) -> list[int]:
    """Track the checkpoints of some records under a metric into a run `out`; the steps it has.

    Raises:
        ValueError: the base is gone, or the pairs lack what the metric reads.
    """
    from analysis.models.loading import load_tokenizer_if_any
    from analysis.prompts.pairs import Pairs
    from analysis.records.checkpoints import find_model
    from analysis.records.recorded import model_of, pairs_of
    from analysis.records.run_file import RunFile, is_run
    from analysis.tracking.further import FILE as FURTHER
    from analysis.tracking.settings import TrackingSettings
    from analysis.tracking.tracker import HeadTracker

    first = records[0]
    pairs, file = pairs_of(run, first), RunFile.read(run)
    further = Pairs.load(run / FURTHER) if (run / FURTHER).is_file() else None
    for name, given_pairs in (("pairs.jsonl", pairs), (FURTHER, further)):
        check_pairs(given_pairs or [], metric, run / name)
    pairs = Pairs(list(pairs), pairs.about, further)
    known = {entry.name for entry in fields(TrackingSettings)}
    given = {name: value for name, value in first.settings.items() if name in known}
    given |= {"metric": metric, "batch_size": o.batch_size}
    settings = TrackingSettings(**given)
    named = find_model(f"{run}@{first.step}")
    tracker = HeadTracker(out, pairs, settings, load_tokenizer_if_any(named.base or named.path))
    if not is_run(out):
        tracking = {**(file.tracking or {}), "metric": metric}
        name = f"{file.name} under {metric}"
        replace(file, name=name, kind="track", signal=None, tracking=tracking).write(out)
    done = []
    for record in records:
        try:
            if not tracker.is_tracked(record.step):
                print(f"step {record.step} under {metric}", flush=True)
                tracker.track(model_of(run, record, o.device), record.step)
        except ValueError as error:
            if record is first:
                raise
            log.warning("step %d is left out: %s", record.step, error)
        else:
            done.append(record.step)
    return done


def act(options: Options) -> None:
    """Track under the second metric what is not tracked so yet; print and write the agreement."""
    from transformers.utils import logging as transformers_logging

    from analysis.attribution.metrics import metric_named
    from analysis.comparison.agreement import agree, agreement_json, format_agreement
    from analysis.files import write_json
    from analysis.records.record_files import read_records
    from analysis.trajectories.run import Run

    transformers_logging.disable_progress_bar()
    run, metric = Path(options.run).expanduser(), options.metric
    metric_named(metric)
    if not run.is_dir():
        raise ValueError(f"there is no run {run}; give a directory that tracking wrote")
    records = read_records(run)
    if not records or records[0].step != 0:
        raise ValueError(f"{run} has no record of step 0, the base; track it (headlab track)")
    own = str(records[0].settings.get("metric"))
    if metric == own:
        raise ValueError(f"{run} is tracked under {own} itself; give another metric=...")
    out = Path(options.out).expanduser() if options.out else run / "metrics" / metric
    steps = track_under(metric, run, records, out, options)
    found = agree(Run.read(run), Run.read(out), steps)
    write_json(out / "agreement.json", agreement_json(found))
    print(format_agreement(found))
    print(f"wrote {out / 'agreement.json'}")

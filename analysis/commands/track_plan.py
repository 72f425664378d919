"""`headlab track plan=true`: what memory and time the tracking of a run will take."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands.tracked_run import Options, of_run, read_pairs

if TYPE_CHECKING:
    from analysis.tracking.forecast import TrackingForecast


def say(options: Options, steps: dict[int, str] | None) -> None:
    """Load the base, try a few of the pairs on it, and print. steps: None where they are to come.

    Raises:
        ValueError: as tracking itself.
    """
    from analysis.attribution.forecast import quietly
    from analysis.models.loading import load_model
    from analysis.records.record_files import is_recorded
    from analysis.reporting.forecast_words import memory_words
    from analysis.tracking.forecast import tracking_forecast

    if steps is None:
        options = of_run(options)
    elif options.base is None:
        options = replace(options, base=steps[0])
    assert options.base is not None, "checked, or the run's"
    pairs, _ = read_pairs(options)
    began = time.perf_counter()
    model = load_model(options.base, options.dtype, options.device, bare=options.base)
    loading = time.perf_counter() - began
    tracking, run = options.tracking, Path(options.run)
    with quietly():
        found = tracking_forecast(model, pairs, tracking.settings(), run, tracking.needed)
    lines = memory_words(replace(found.attribution, peak=found.peak))
    lines += ["", *_parts(found, tracking.ig_steps == "auto")]
    if steps is not None:
        todo = [s for s in steps if options.redo or not is_recorded(Path(options.run), s)]
        lines.append(_in_all(found, todo, len(steps), loading))
    print("\n".join(lines))


def _parts(found: TrackingForecast, is_auto: bool) -> list[str]:
    """What a checkpoint takes. is_auto: whether the points are chosen pair by pair."""
    from analysis.reporting.forecast_words import duration, points_words

    return [
        f"A checkpoint: {duration(found.checkpoint)}, of it attribution "
        f"{duration(found.attribution.seconds)} ({points_words(found.attribution)} a pair, on "
        f"{found.attribution.tried} pairs that were tried), circuit {duration(found.circuit)}, "
        f"roles and distance {duration(found.roles)}, bootstrap {duration(found.bootstrap)}.",
        *(["That is of the base; after training pairs may take more points."] if is_auto else []),
    ]


def _in_all(found: TrackingForecast, todo: list[int], of: int, loading: float) -> str:
    from analysis.reporting.forecast_words import duration

    if not todo:
        return f"All {of} checkpoints are tracked already."
    found = found if 0 in todo else replace(found, further=0.0)
    extra = [f"loading {duration(loading)} each"]
    if found.further:
        extra.append(f"the base's further pairs {duration(found.further)}")
    if found.needed:
        extra.append(f"up to {duration(found.needed)} at the end, for heads that are called")
    return (
        f"{len(todo)} of {of} checkpoints: {duration(found.run(len(todo), loading))} in all "
        f"({', '.join(extra)}; pages and loggers not counted)."
    )

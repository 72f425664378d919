"""How often calls are right where the truth is known: `headlab bench part=worlds`.

Runs of CHECKPOINTS checkpoints, in which nothing changes and in which heads do, at several shares
of noise that checkpoints have in common. The worlds are lognormal, or with scores=RUN@STEP drawn
from the per-pair scores of that record (analysis/heads/worlds.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.heads.worlds import World
    from analysis.models.graph import Graph

CHECKPOINTS = 7  # after the base
SHARED = (0.0, 0.5, 0.9)
RESAMPLES = 200  # enough for a standard error
CHANGED = 10  # one head in so many grows, and as many shrink


def worlds_of(scores: str | None, changes: bool, shared: float) -> Callable[[int], World]:
    """The world of a seed.

    Raises:
        ValueError: scores names no record.
    """
    from analysis.heads.resampling import Selection
    from analysis.heads.worlds import LOGNORMAL_GRAPH, Lognormal, Resampled
    from analysis.intervals import FEWEST
    from analysis.records.record_files import read_record, read_scores

    if scores is None:
        changed = _changed(LOGNORMAL_GRAPH) if changes else 0
        return partial(Lognormal, changed=changed, shared=shared)
    run, _, step = scores.rpartition("@")
    if not run or not step.isdecimal():
        raise ValueError(f"scores={scores} must be RUN@STEP, the directory of a run and a step")
    record = read_record(Path(run), int(step))
    if record is None:
        raise ValueError(f"scores={scores}: {run} has no valid record of step {step}")
    graph, selection = record.graph, Selection(**record.selection)
    per_pair = read_scores(run, int(step))
    if record.distinct < FEWEST:
        raise ValueError(f"scores={scores} has one distinct pair, and so no noise to draw from")
    if graph.n_heads_total < 2:
        raise ValueError(f"scores={scores} is of one head, and one grows where another shrinks")
    changed = _changed(graph) if changes else 0

    def make(seed: int) -> World:
        return Resampled(seed, graph, per_pair, selection, changed, shared=shared)

    return make


def _changed(graph: Graph) -> int:
    """How many heads grow, and how many shrink."""
    return max(1, graph.n_heads_total // CHANGED)


def measure_worlds(worlds: int, pairs: int, scores: str | None, times: int = 1) -> None:
    """Print the rates over many worlds, each a mean with its Monte-Carlo standard error."""
    from analysis.heads.changes import FDR
    from analysis.heads.rates import measure_rates

    kind = "lognormal" if scores is None else f"drawn from {scores}"
    print(
        f"{worlds} worlds, {kind}: {pairs} pairs, {times} times as many for the base, "
        f"{CHECKPOINTS} checkpoints, q = {FDR:g}; "
        "in brackets the Monte-Carlo standard error"
    )
    words = {
        "b" * (CHECKPOINTS + 1): "nothing changes",
        "b" * CHECKPOINTS + "m": "heads change at the last checkpoint",
        "b" + "m" * CHECKPOINTS: "heads change at the first checkpoint",
    }
    for shared in SHARED:
        for word, what in words.items():
            make = worlds_of(scores, "m" in word, shared)
            rates = measure_rates(make, word, pairs, worlds, FDR, RESAMPLES, times)
            power = f", power {rates.power}" if "m" in word else ""
            print(
                f"noise shared {shared:g}, {what}: runs with a false call {rates.any_false}, "
                f"false-discovery rate {rates.false_discovery}{power}, calls {rates.calls}",
                flush=True,
            )

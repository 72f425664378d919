"""The rows of a run that loggers show: checkpoints, evaluations, and what its trainer logged.

A row is known by a name and by the content of what it shows, so that a record that was replaced is
logged again, and nothing else twice. Every row carries the step that it is shown over
(`heads/step`, or `train/global_step`), so late rows land at their step.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.files import short_hash
from analysis.records.run_file import MAX_HEAD_CURVES
from analysis.records.training_log import read_metrics

if TYPE_CHECKING:
    import numpy as np
    import torch

    from analysis.intervals import Estimate
    from analysis.models.graph import Graph
    from analysis.records.needed import Effect, Needed
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Point

log = logging.getLogger(__name__)

ENDS = {"": "pass_at_1", "/lo": "low", "/hi": "high"}


def _with_ends(name: str, estimate: Estimate) -> dict[str, float]:
    values = {name: estimate.value, f"{name}/lo": estimate.low, f"{name}/hi": estimate.high}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def curve_heads(points: Sequence[Point], most: int) -> list[int]:
    """Heads that get a curve: every head ever in a circuit, in order of appearance, at most `most`.

    Heads of one checkpoint are ordered by importance there, so that a later checkpoint never takes
    a curve away.
    """
    return [head for point in points for head in point.newcomers][:most]


def curve_name(graph: Graph, head: int) -> str:
    """The curve of a head, by its place in `graph.heads`: `head/L05H03`."""
    layer, own = graph.heads[head]
    return f"head/L{layer:02}H{own:02}"


def head_values(points: Sequence[Point], most: int = MAX_HEAD_CURVES) -> dict[str, float]:
    """What the last of some points logs: `circuit/*`, `heads/*` (`/lo`, `/hi`), `head/L00H00`.

    And `routing/*` of a mixture of experts.
    """
    point = points[-1]
    record, change, turn = point.record, point.change, point.turn
    values: dict[str, float] = {
        "circuit/edges": record.n_edges,
        "circuit/completeness_gap": record.completeness_gap,
        "circuit/metric_corrupted": record.metric_corrupted,
        "circuit/seconds": record.seconds,
        **_with_ends("circuit/heads", point.counts["in_circuit"]),
        **_with_ends("circuit/faithfulness", record.faithfulness()),
        **_with_ends("heads/jaccard", change.jaccard),
        **_with_ends("heads/overlap", change.overlap),
        **_with_ends("heads/rank_correlation", change.rank_correlation),
    }
    if record.held_out is not None:
        values |= _with_ends("circuit/metric_gap", record.metric_gap())
    if (size := record.size()) is not None:
        values |= _with_ends("circuit/size", size)
    if record.points is not None:
        values["circuit/points"] = record.points
    if (kl := record.kl_from_base()) is not None:
        values |= _with_ends("circuit/kl_from_base", kl)
    if record.same is not None:
        changed = record.same.changed
        values |= _with_ends("heads/changed", record.same.below)
        values["heads/changed/called"] = int(changed.sum())
        values["heads/changed/retained"] = int((changed & point.masks["retained"]).sum())
    for name in ("emergent", "retained", "pruned", "transient"):
        values |= _with_ends(f"heads/{name}", point.counts[name])
    for name, (mean, high) in change.null.items():
        if change.is_tested:
            values |= {f"heads/{name}/null": mean, f"heads/{name}/null_hi": high}
            values[f"heads/{name}/called"] = int(change.called[name].sum())
    for name, mask in point.settled.items():
        values[f"heads/{name}/settled"] = int(mask.sum())
    if turn is not None:
        values |= _with_ends("heads/turnover", turn.turnover)
        values |= _with_ends("heads/overlap_previous", turn.overlap)
        values |= _with_ends("heads/excess_turnover", turn.excess_turnover)
    values |= routing_values(point)
    shown, shares = curve_heads(points, most), record.shares.tolist()
    values |= {"head/curves": len(shown), "head/curves_cap": most}
    for index in shown:
        if not math.isnan(shares[index]):
            values[curve_name(record.graph, index)] = shares[index]
    return values


def routing_values(point: Point) -> dict[str, float]:
    """`routing/*` of one point, by layers; nothing without experts."""
    values: dict[str, float] = {}
    if (routing := point.routing) is None:
        return values
    if routing.overall is not None:
        values |= _with_ends("routing/changed", routing.overall)
    for layer, share in routing.changed.items():
        values |= _with_ends(f"routing/changed/L{layer:02}", share)
    for layer in routing.load:
        values |= _with_ends(f"routing/busiest/L{layer:02}", routing.busiest(layer)[1])
        values[f"routing/unused/L{layer:02}"] = routing.unused(layer)
    return values


def needed_values(found: Needed) -> dict[str, float]:
    """`needed/*` of one step: what taking heads out did, in the checkpoint and in the base.

    Of the random sets the mean, and with `/lo` and `/hi` the smallest and the largest.
    """
    values: dict[str, float] = {"needed/heads": len(found.heads)}
    for name, effect in (("needed", found.now), ("needed/base", found.base)):
        if effect is not None:
            values |= _effect_values(name, effect)
    return values


def _effect_values(name: str, effect: Effect) -> dict[str, float]:
    values = _with_ends(f"{name}/change", effect.change.estimate)
    if effect.excess is not None and effect.p_value is not None:
        values |= _with_ends(f"{name}/excess", effect.excess.estimate)
        values |= _spread(f"{name}/random", effect.random)
        values[f"{name}/p"] = effect.p_value
    if (right := effect.right) is not None:
        values |= {f"{name}/right": right.whole, f"{name}/right_without": right.out}
        values |= _spread(f"{name}/right_random", right.random)
    return values


def _spread(name: str, found: Sequence[float]) -> dict[str, float]:
    """The mean of some numbers, the smallest and the largest; nothing of none."""
    if not found:
        return {}
    return {name: sum(found) / len(found), f"{name}/lo": min(found), f"{name}/hi": max(found)}


@dataclass(frozen=True)
class Entry:
    """One row for loggers: of the first `count` points, or, if that is None, of given values.

    axis: the step metric, in which `step` is said. name, digest: which row it is, and a hash of
    what it shows.
    """

    step: int
    name: str
    digest: str
    count: int | None
    values: dict[str, Any] = field(default_factory=dict)
    axis: str = "heads/step"

    @property
    def is_trainers(self) -> bool:
        """Whether the trainer logged it."""
        return self.axis != "heads/step"

    @property
    def mark(self) -> str:
        """What says in a log which row it is."""
        return f"{self.name} {self.digest}"


class Media(NamedTuple):
    """What a row shows beside numbers: pictures (PNG) and tables (titles, rows), by name."""

    pictures: Mapping[str, bytes] = {}
    tables: Mapping[str, tuple[list[str], list[list[Any]]]] = {}


# of a training as a whole, which the trainer logs at its end
TOTALS = (
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_loss",
    "total_flos",
)


def training_rows(step: int, logged: Mapping[str, Any]) -> list[Entry]:
    """The rows of what a trainer logged at a step: `train/*`, `eval/*`, by transformers' names.

    How long something took is shown, and makes no other row of one that is otherwise the same.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for name, value in logged.items():
        if name in TOTALS or not isinstance(value, int | float):
            continue
        kind = "eval" if name.startswith("eval_") else "train"
        kinds.setdefault(kind, {})[f"{kind}/{name.removeprefix('eval_')}"] = value
    found = []
    for kind, values in kinds.items():
        lasting = {k: v for k, v in values.items() if "time" not in k and "per_second" not in k}
        digest = short_hash(json.dumps(lasting, sort_keys=True))
        name = f"{'train' if kind == 'train' else 'train-eval'}/{step}"
        found.append(Entry(step, name, digest, None, values, "train/global_step"))
    return found


def run_rows(run: Run) -> list[Entry]:
    """All rows of a run, by step."""
    from analysis.records.record_files import record_dir

    found = []
    for count, point in enumerate(run.points, start=1):
        content = (record_dir(run.path, point.step) / "record.json").read_bytes()
        found.append(Entry(point.step, f"heads/{point.step}", short_hash(content), count))
    for row in run.rows:
        held_out = {} if row.evaluation is None else {"held_out": row.evaluation}
        for task, score in {**held_out, **row.tasks}.items():
            digest = short_hash(json.dumps(score, sort_keys=True).encode())
            values = {
                f"eval/{task}/pass@1{end}": score[what]
                for end, what in ENDS.items()
                if score[what] is not None
            }
            found.append(Entry(row.step, f"eval/{task}/{row.step}", digest, None, values))
    for step, asked in run.needed.items():
        values = needed_values(asked)
        digest = short_hash(json.dumps(values, sort_keys=True))
        found.append(Entry(step, f"needed/{step}", digest, None, values))
    for step, logged in read_metrics(run.path).items():
        found += training_rows(step, logged)
    return sorted(found, key=lambda entry: entry.step)


def shown(entry: Entry, run: Run) -> tuple[Mapping[str, Any], Media]:
    """The values of a row of a run, and its media."""
    if entry.count is None:
        return entry.values, Media()
    points = run.points[: entry.count]
    return head_values(points, run.file.max_head_curves), media(points, run.path)


def media(points: Sequence[Point], run: Path) -> Media:
    """The map of heads and the cohort chart; the table of heads, and the map as a table."""
    from analysis.reporting.kinds import kind_title
    from analysis.reporting.pictures import cohort_picture, head_map_picture
    from analysis.reporting.tables import head_rows, head_titles
    from analysis.trajectories.run import roles_at

    try:
        rows = head_rows(points, roles_at(run, points[-1]))
        pictures = {
            "heads/map": _png(head_map_picture(points[-1])),
            "heads/cohorts": _png(cohort_picture(points)),
        }
        graph = points[-1].record.graph
        tables = {
            "heads/table": (head_titles(graph), [list(row) for row in rows]),
            "heads/map_table": ([*MAP_TITLES, *kind_title(graph)], map_rows(points[-1])),
        }
        return Media(pictures, tables)
    except Exception as error:  # the row matters more, whatever goes wrong in a picture
        log.warning("no pictures of step %d are logged: %s", points[-1].step, error)
        return Media()


MAP_TITLES = ("heads/step", "layer", "head", "importance", "state", "called", "settled")
MAP_MOST = 10_000  # rows of a table that W&B shows


def map_rows(point: Point, most: int = MAP_MOST) -> list[list[Any]]:
    """The map of heads as a table, by MAP_TITLES: every head, or the `most` important ones.

    Where heads are of two kinds there is one cell more.

    state: none for a head that was in no circuit yet. called, settled: as what, or nothing.
    """
    from analysis.reporting.kinds import kind_cell

    importance, graph = point.record.importance, point.record.graph
    order = list(range(importance.numel()))
    if importance.numel() > most:
        strongest = importance.abs().argsort(descending=True, stable=True)[:most]
        order = sorted(strongest.tolist())
    weights, called, settled = (
        [None if math.isnan(share) else share for share in point.record.shares.tolist()],
        _words(point.change.called),
        _words(point.settled),
    )
    found = []
    for index in order:
        cells = (weights[index], point.states[index] or "none", called[index], settled[index])
        found.append([point.step, *graph.heads[index], *cells, *kind_cell(graph, index)])
    return found


def _words(masks: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of the masks [A] that each head is in."""
    rows = zip(*(mask.tolist() for mask in masks.values()), strict=True)
    return [", ".join(compress(masks, row)) for row in rows]


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()

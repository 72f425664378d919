"""Mirror to W&B what the local files of a run hold and W&B has not got yet.

RUN/wandb-published.json says what W&B was given, by the content of the record, so that a record
that was replaced is logged again, and nothing else twice.

Every row carries `heads/step`, the step metric of all groups, so late rows land at their step.
"""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.files import short_hash, write_json
from analysis.records.run_file import MAX_HEAD_CURVES, RunFile, configuration

if TYPE_CHECKING:
    from analysis.intervals import Estimate
    from analysis.reporting.wandb_mirror import WandbMirror
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Point

FILE = "wandb-published.json"
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
    found: dict[int, None] = {}
    for point in points:
        importance = point.record.importance
        inside = point.masks["in_circuit"].nonzero().flatten().tolist()
        found.update(dict.fromkeys(sorted(inside, key=lambda head: -float(importance[head]))))
    return list(found)[:most]


def head_values(points: Sequence[Point], most: int = MAX_HEAD_CURVES) -> dict[str, float]:
    """What the last of some points logs: `circuit/*`, `heads/*` (`/lo`, `/hi`), `head/L00H00`."""
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
    shown = curve_heads(points, most)
    values |= {"head/curves": len(shown), "head/curves_cap": most}
    for index in shown:
        layer, head = divmod(index, record.graph.n_heads)
        values[f"head/L{layer:02}H{head:02}"] = float(record.importance[index])
    return values


@dataclass(frozen=True)
class Entry:
    """One row for W&B: of the first `count` points, or, if that is None, of given values."""

    step: int
    name: str
    digest: str
    count: int | None
    values: dict[str, Any] = field(default_factory=dict)


def published(run: Path) -> dict[str, dict[str, str]]:
    """What W&B was given of a run, by mode (online, offline): name of the entry -> its digest."""
    path = run / FILE
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        log.warning("%s is damaged; everything is given to W&B again", path)
        return {}
    return found


def adopt_offline(run: Path) -> None:
    """Count what offline runs were given as given online: they have been uploaded."""
    everything = published(run)
    everything["online"] = {**everything.get("online", {}), **everything.get("offline", {})}
    write_json(run / FILE, everything)


def missing(run: Run, mode: str) -> list[Entry]:
    """What W&B has not got of a run in a mode (online or offline), by step."""
    from analysis.records.record import record_dir

    done = published(run.path).get(mode, {})
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
    kept = [entry for entry in found if done.get(entry.name) != entry.digest]
    return sorted(kept, key=lambda entry: entry.step)


class Publisher:
    """Gives W&B what it is missing of a run. It writes no record, so it can lose none."""

    def __init__(self, mirror: WandbMirror) -> None:
        self.mirror = mirror

    @classmethod
    def start(cls, run: Path, mode: str, project: str | None = None) -> Publisher | None:
        """That of a run that has its run.json; None if W&B is switched off, or does not start.

        mode: auto, online, offline or disabled. project: another one than the run names.
        """
        from analysis.reporting.wandb_mirror import WandbMirror

        file = RunFile.read(run)
        project = project or file.wandb_project
        mirror = WandbMirror.start(run, file.name, project, mode, configuration(run))
        return None if mirror is None else cls(mirror)

    def update(self, run: Run) -> list[int]:
        """Log every checkpoint and evaluation that W&B has not got; the steps logged."""
        logged = []
        everything = published(run.path)
        done = everything.setdefault(self.mirror.mode, {})
        for entry in missing(run, self.mirror.mode):
            values = entry.values
            if entry.count is not None:
                so_far = run.points[: entry.count]
                most = run.file.max_head_curves
                values = {**head_values(so_far, most), **media(so_far, run.path)}
            if self.mirror.log(entry.step, values):
                done[entry.name] = entry.digest
                logged.append(entry.step)
        if logged:
            write_json(run.path / FILE, everything)
        return logged


def media(points: Sequence[Point], run: Path) -> dict[str, Any]:
    """The map of heads, the cohort chart and the table of heads at the last of some points."""
    try:
        import wandb

        from analysis.heads.roles import read_roles
        from analysis.reporting.pictures import cohort_picture, head_map_picture
        from analysis.reporting.tables import HEAD_TITLES, head_rows

        rows = head_rows(points, read_roles(run, points[-1].step))
        return {
            "heads/map": wandb.Image(head_map_picture(points[-1])),
            "heads/cohorts": wandb.Image(cohort_picture(points)),
            "heads/table": wandb.Table(columns=list(HEAD_TITLES), data=rows),
        }
    except Exception as error:  # the mirror may fail soft, whatever W&B raises
        log.warning("W&B did not take the pictures of step %d: %s", points[-1].step, error)
        return {}


def upload_offline(run: Path) -> Iterable[Path]:
    """Upload the offline files of a run that W&B has never got, oldest first; those uploaded."""
    for directory in sorted(run.glob("wandb/offline-run-*")):
        if list(directory.glob("*.wandb.synced")) or not list(directory.glob("*.wandb")):
            continue
        command = [sys.executable, "-P", "-m", "wandb", "sync", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            detail = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise ValueError(f"wandb sync {directory} failed: {' '.join(detail)}")
        yield directory

"""Mirror to W&B what the local files of a run hold and W&B has not got yet.

A row is known by a name and by the content of what it shows, so that a record that was replaced is
logged again, and nothing else twice. wandb_given.py says which ones W&B has.

Every row carries the step that it is shown over (`heads/step`, or `train/global_step`), so late
rows land at their step.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.files import short_hash
from analysis.records.run_file import MAX_HEAD_CURVES, RunFile, configuration
from analysis.records.training_log import read_metrics
from analysis.reporting.wandb_files import MARK
from analysis.reporting.wandb_given import Given
from analysis.reporting.wandb_mirror import FINISH, WandbMirror

if TYPE_CHECKING:
    import numpy as np

    from analysis.intervals import Estimate
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Point

TRIES = 3  # how often W&B is started again in a run
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
        found.update(dict.fromkeys(point.ranked))
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
    """One row for W&B: of the first `count` points, or, if that is None, of given values.

    axis: the step metric, in which `step` is said.
    """

    step: int
    name: str
    digest: str
    count: int | None
    values: dict[str, Any] = field(default_factory=dict)
    axis: str = "heads/step"


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


def missing(run: Run, mode: str, given: Given | None = None) -> list[Entry]:
    """What W&B has not got of a run in a mode (online or offline), by step.

    Online, what a session that did not finish has given counts as missing.
    """
    from analysis.records.record import record_dir

    done = (given or Given.read(run.path)).of(mode)
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
    for step, logged in read_metrics(run.path).items():
        found += training_rows(step, logged)
    kept = [entry for entry in found if done.get(entry.name) != entry.digest]
    return sorted(kept, key=lambda entry: entry.step)


class Publisher:
    """Gives W&B what it is missing of a run. It writes no record, so it can lose none.

    It is never waited for but at its start and its end, and then not for long. A W&B that fails is
    started again, a few times.
    """

    def __init__(self, path: Path, mirror: WandbMirror, project: str) -> None:
        self.path = path
        self.mirror = mirror
        self.project = project
        self.tries = 0
        self.sent: dict[str, str] = {}  # in this session
        self.logged: tuple[int, dict[str, Any]] = (0, {})  # by the trainer at the last step
        self.given = Given.read(path)
        if mirror.mode == "online":
            self.given.settle(mirror.starting_step)
            self.given.write(path)

    @classmethod
    def start(
        cls, run: Path, mode: str, project: str | None = None, strict: bool = False
    ) -> Publisher | None:
        """That of a run that has its run.json; None if W&B is switched off, or does not start.

        mode: auto, online, offline or disabled. project: another one than the run names. strict:
        offline is no way out of a server that can't be reached.

        Raises:
            ValueError: strict, and W&B does not start.
        """
        file = RunFile.read(run)
        project = project or file.wandb_project
        how = (run, file.name, project, mode, configuration(run))
        mirror = WandbMirror.begin(*how) if strict else WandbMirror.start(*how)
        return None if mirror is None else cls(run, mirror, project)

    def update(self, run: Run) -> list[int]:
        """Log every checkpoint, evaluation and log of the trainer that is missing; their steps."""
        if not self._works():
            return []
        entries = self._new(missing(run, self.mirror.mode, self.given))
        for entry in entries:
            if entry.count is None:
                self._send(entry, entry.values)
            else:
                so_far = run.points[: entry.count]
                self._send(entry, head_values(so_far, run.file.max_head_curves), so_far)
        return [entry.step for entry in entries]

    def training(self, step: int, logged: Mapping[str, Any]) -> None:
        """Log what the trainer has just logged; never raises."""
        with warned():
            if not self._works():
                return
            if totals := {name: logged[name] for name in TOTALS if name in logged}:
                self.mirror.summarise(totals)
            before, values = self.logged
            self.logged = step, {**(values if before == step else {}), **logged}
            for entry in self._new(training_rows(*self.logged)):
                self._send(entry, entry.values)

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to what W&B shows as the run's configuration; never raises."""
        with warned():
            self.mirror.configure(values)

    def finish(self, limit: float = FINISH, exit_code: int = 0) -> list[str]:
        """End the session and count what W&B has; the names of the rows that it may not have.

        limit: seconds that it may take; see `WandbMirror.finish`.
        """
        whole = self.mirror.finish(limit, exit_code)
        self.given = Given.read(self.path)
        if whole:
            self.given.finished(self.mirror.files)
        self.given.write(self.path)
        return self._left(self.mirror.mode)

    def conclude(self, limit: float = FINISH, exit_code: int = 0) -> None:
        """`finish`, once more if rows were lost on the way, and with a word on what is left.

        Never raises.
        """
        from analysis.trajectories.run import Run

        with warned():
            left = self.finish(limit, exit_code)
            if self._left("offline") and self._works():
                self.update(Run.read(self.path))
                left = self.finish(limit, exit_code)
            if left:
                log.warning(
                    "W&B (%s) may not have %d of the rows that it was given; headlab publish "
                    "run=%s gives it what is missing",
                    self.mirror.reason,
                    len(left),
                    self.path,
                )

    def _left(self, mode: str) -> list[str]:
        done = self.given.of(mode)
        return [name for name, digest in self.sent.items() if done.get(name) != digest]

    def _new(self, entries: list[Entry]) -> list[Entry]:
        done = {**self.given.of(self.mirror.mode), **self.sent}
        return [entry for entry in entries if done.get(entry.name) != entry.digest]

    def _send(self, entry: Entry, values: Mapping[str, Any], points: Sequence[Point] = ()) -> None:
        row = {entry.axis: entry.step, MARK: f"{entry.name} {entry.digest}", **values}
        self.mirror.log(row, *(media(points, self.path) if points else ()))
        self.sent[entry.name] = entry.digest

    def _works(self) -> bool:
        """Whether W&B takes rows; one that has failed is started again, until `TRIES`."""
        if self.mirror.is_alive:
            return True
        if self.tries >= TRIES:
            return False
        self.tries += 1
        self.finish()
        again = Publisher.start(self.path, self.mirror.mode, self.project)
        what = "and is started again"
        if again is None or self.tries >= TRIES:
            word = shlex.quote(f"run={self.path}")
            what = f"for the last time; headlab publish {word} gives it what it misses"
        log.warning("W&B ended (%s) %s", self.mirror.reason, what)
        if again is not None:
            self.mirror, self.given, self.sent = again.mirror, again.given, {}
        return again is not None


@contextmanager
def warned() -> Iterator[None]:
    """Inside, what fails is logged: W&B is a mirror, and the local records are the truth."""
    try:
        yield
    except Exception as error:
        log.warning("W&B misses something (%s); the local records are complete", error)


def media(
    points: Sequence[Point], run: Path
) -> tuple[dict[str, str], dict[str, tuple[list[str], list[Any]]]]:
    """Pictures (PNG in base64) and tables at the last of some points.

    They are the map of heads and the cohort chart; the table of heads.
    """
    from analysis.reporting.pictures import cohort_picture, head_map_picture
    from analysis.reporting.tables import HEAD_TITLES, head_rows
    from analysis.trajectories.run import roles_at

    try:
        rows = head_rows(points, roles_at(run, points[-1]))
        pictures = {
            "heads/map": _png(head_map_picture(points[-1])),
            "heads/cohorts": _png(cohort_picture(points)),
        }
        return pictures, {"heads/table": (list(HEAD_TITLES), [list(row) for row in rows])}
    except Exception as error:  # the row matters more, whatever goes wrong in a picture
        log.warning("W&B gets no pictures of step %d: %s", points[-1].step, error)
        return {}, {}


def _png(picture: np.ndarray) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()

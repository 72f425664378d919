"""What taking a set of heads out did at a checkpoint, as a file: RUN/needed/step-000040.json."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.files import as_form, check_schema, read_json, write_json
from analysis.intervals import Estimate
from analysis.records.record_files import recorded_steps

SCHEMA = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Number:
    """A number with the ends of its 95 % interval; None where it has none, as JSON has no NaN."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, estimate: Estimate) -> Number:
        ends = (estimate.value, estimate.low, estimate.high)
        return cls(*(x if math.isfinite(x) else None for x in ends))

    @property
    def estimate(self) -> Estimate:
        return Estimate(*(math.nan if x is None else x for x in (self.value, self.low, self.high)))


@dataclass(frozen=True)
class Right:
    """Share of the pairs whose clean prompt goes on with its target: as it is, changed, random."""

    whole: float
    out: float
    random: list[float]


@dataclass(frozen=True)
class Effect:
    """What taking a set of heads out does to the pairs' metric in one model; larger is worse.

    change: of the metric, in its units.  random: the same of each random set.  excess: change less
    the mean of the random sets'.  p_value: share of the sets, this one included, that change as
    much; None without random sets.  right: None where the pairs have no targets.
    """

    change: Number
    random: list[float]
    excess: Number | None
    p_value: float | None
    right: Right | None


@dataclass(frozen=True)
class Match:
    """How well random sets match a set of heads.

    layers: share of their heads that stand in a layer where the set has one for each of them.
    overlap: share of the heads that two of the random sets have in common, on average.
    """

    sets: int
    layers: float
    overlap: float


@dataclass(frozen=True)
class Backup:
    """A head whose importance, in units of the metric, rises when others are out of the model."""

    head: str
    before: float
    after: float
    rise: Number
    p_value: float


@dataclass(frozen=True)
class Needed:
    """A set of heads at its mean, at one checkpoint and in the base.

    of: what the set is, a SET of analysis/interventions/head_sets.py or `given`.  called: how many
    heads that is.  heads: those that were taken out, the most important first.  operation: how.
    now, base: None where it was not measured.  note: why there are fewer heads than that, no random
    sets, no base or no backups; empty where there is nothing to say.  backups: heads that the model
    leans on more without them; None where that was not measured.
    """

    step: int
    pairs_hash: str
    metric: str
    of: str
    called: int
    heads: list[str]
    operation: str = "mean"
    now: Effect | None = None
    base: Effect | None = None
    match: Match | None = None
    note: str = ""
    backups: list[Backup] | None = None


def needed_path(run: Path, step: int) -> Path:
    return run / "needed" / f"step-{step:06d}.json"


def as_json(found: Needed) -> dict[str, Any]:
    """What a file holds of it."""
    return {"schema": SCHEMA, **asdict(found)}


def write_needed(run: Path, found: Needed) -> Path:
    """Write or replace that of one step; the path of its file."""
    path = needed_path(run, found.step)
    write_json(path, as_json(found))
    return path


def read_needed(run: Path) -> dict[int, Needed]:
    """All that was measured of a run, by step; what can't be read is left out, with a warning."""
    found = {}
    for step in recorded_steps(run / "needed"):
        path = needed_path(run, step)
        try:
            content = read_json(path, dict[str, Any])
            check_schema(content, SCHEMA, path, "run headlab needed again")
            one = as_form(content, Needed, path)
            if one.step != step:
                raise ValueError(f"{path} is of step {one.step}")
        except (ValueError, FileNotFoundError) as error:
            log.warning("left out: %s", error)
        else:
            found[step] = one
    return found

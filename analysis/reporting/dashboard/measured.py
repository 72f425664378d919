"""What the page says of one checkpoint: it follows from its record and the base's, and stays."""

from __future__ import annotations

from typing import TypedDict

import torch

from analysis.heads.changes import Heads
from analysis.intervals import percentile
from analysis.records.record import Record
from analysis.reporting.dashboard.edges import circuit_edges
from analysis.reporting.dashboard.form import Checkpoint, Edges, Packed, Patterns
from analysis.reporting.dashboard.packing import packed
from analysis.trajectories.trajectory import Point

LEAST = 1e-37  # of p-values above 0: f32 has few smaller ones
MOST_KEPT = 1000  # checkpoints, of some 20 kB each


class _OfRecord(TypedDict):
    """What follows from the record only."""

    importance: Packed
    importance_low: Packed
    importance_high: Packed
    margin: Packed
    edges: Edges


_KEPT: dict[str, _OfRecord] = {}


def checkpoint(point: Point, patterns: Patterns | None = None) -> Checkpoint:
    """One checkpoint of a trajectory.

    What takes time is kept by what is in the record's files: a report is written after each
    checkpoint of a run.
    """
    p = point.change.p_value
    return {
        "step": point.step,
        **_kept(point.record),
        "inclusion": packed(point.change.inclusion_after, "f16"),
        "p_value": packed(torch.where(p > 0, p.clamp_min(LEAST), p), "f32"),
        "patterns": patterns,
    }


def _kept(record: Record) -> _OfRecord:
    if not record.digest:  # in no file yet
        return _of_record(record)
    key = f"{record.digest} {record.selection} {record.adds_up} {record.distinct}"
    if key not in _KEPT:
        _KEPT[key] = _of_record(record)
        while len(_KEPT) > MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
    return _KEPT[key]


def _of_record(record: Record) -> _OfRecord:
    heads = record.heads
    low, high = _ends(heads.importance)
    return {
        "importance": packed(record.shares, "f16"),
        "importance_low": packed(low, "f16"),
        "importance_high": packed(high, "f16"),
        "margin": packed(_margin(heads), "f16"),
        "edges": circuit_edges(record),
    }


def _margin(heads: Heads) -> torch.Tensor:
    """Of the pairs themselves: [A]; NaN where there is no circuit to be in or out of."""
    everyone = torch.arange(heads.strength.shape[1])
    if bool(heads.threshold[0].isinf()):
        return torch.full(everyone.shape, torch.nan, dtype=torch.float64)
    return heads.bare.margin(everyone)[0]


def _ends(importance: torch.Tensor) -> torch.Tensor:
    """Both ends of the interval: [1+R, A] -> [2, A]. Many heads are in no circuit of any draw."""
    found = torch.zeros(2, importance.shape[1], dtype=torch.float64)
    some = (importance != 0).any(0)  # NaN too
    found[:, some] = percentile(importance[:, some])
    if len(importance) == 1:
        found[:] = torch.nan
    return found

"""What the page says of one checkpoint: it follows from its record and the base's, and stays."""

from __future__ import annotations

import torch

from analysis.intervals import percentile
from analysis.reporting.dashboard.edges import circuit_edges
from analysis.reporting.dashboard.form import Checkpoint, Patterns
from analysis.reporting.dashboard.packing import packed
from analysis.trajectories.trajectory import Point

LEAST = 1e-37  # of p-values above 0: f32 has few smaller ones


def checkpoint(point: Point, patterns: Patterns | None = None) -> Checkpoint:
    """One checkpoint of a trajectory."""
    record, change = point.record, point.change
    heads = record.heads
    low, high = _ends(heads.importance)
    everyone = torch.arange(heads.strength.shape[1])
    margin, p = _margin(point, everyone), change.p_value
    return {
        "step": point.step,
        "importance": packed(record.shares, "f16"),
        "importance_low": packed(low, "f16"),
        "importance_high": packed(high, "f16"),
        "inclusion": packed(change.inclusion_after, "f16"),
        "margin": packed(margin, "f16"),
        "p_value": packed(torch.where(p > 0, p.clamp_min(LEAST), p), "f32"),
        "edges": circuit_edges(record),
        "patterns": patterns,
    }


def _margin(point: Point, heads: torch.Tensor) -> torch.Tensor:
    """Of the pairs themselves: [A]; NaN where there is no circuit to be in or out of."""
    bare = point.record.heads.bare
    if bool(bare.threshold.isinf().any()):
        return torch.full(heads.shape, torch.nan, dtype=torch.float64)
    return bare.margin(heads)[0]


def _ends(importance: torch.Tensor) -> torch.Tensor:
    """Both ends of the interval: [1+R, A] -> [2, A]. Many heads are in no circuit of any draw."""
    found = torch.zeros(2, importance.shape[1], dtype=torch.float64)
    some = (importance != 0).any(0)  # NaN too
    found[:, some] = percentile(importance[:, some])
    if len(importance) == 1:
        found[:] = torch.nan
    return found

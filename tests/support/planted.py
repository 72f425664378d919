"""Lognormal worlds (analysis/heads/worlds.py), and records of their scores."""

from __future__ import annotations

import torch

from analysis.heads.changes import Heads
from analysis.heads.resampling import Selection, resample_heads, select
from analysis.heads.worlds import LOGNORMAL_GRAPH as GRAPH
from analysis.heads.worlds import SHARE
from analysis.heads.worlds import Lognormal as World
from analysis.records.record import Record

__all__ = ["GRAPH", "N_HEADS", "SELECTION", "World", "heads_of", "make_record"]

N_HEADS = GRAPH.n_heads_total
SELECTION = Selection(GRAPH.n_edges // SHARE)


def heads_of(scores: torch.Tensor, resamples: int = 300, seed: int = 0) -> Heads:
    """The resampled heads of per-pair scores."""
    r = resample_heads(GRAPH, scores, SELECTION, resamples, seed)
    return Heads(r.strength, r.threshold, r.importance, len(scores))


def make_record(step: int, scores: torch.Tensor, resamples: int = 300, **changes: object) -> Record:
    """A record of per-pair scores [pairs, E] on GRAPH."""
    mean, n_pairs = scores.mean(0), len(scores)
    values: dict[str, object] = {
        "step": step,
        "graph": GRAPH,
        "pairs_hash": "h",
        "settings": {"metric": "kl", "resamples": resamples, "seed": 0},
        "origin": {"model": {"weights": f"w{step}", "adapter": None}, "code": {}, "config": None},
        "selection": {"top_n": SELECTION.top_n, "tau": SELECTION.tau},
        "completeness_gap": 0.01,
        "metric_clean": 0.0,
        "metric_corrupted": 2.0,
        "n_pairs": n_pairs,
        "seconds": 1.0,
        "circuit": select(GRAPH, mean, SELECTION),
        "mean": mean,
        "evaluation": torch.tensor([[0.4], [0.0], [2.0]]).repeat(1, n_pairs),
        "resampled": resample_heads(GRAPH, scores, SELECTION, resamples, 0),
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]

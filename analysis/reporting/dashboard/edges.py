"""The edges of a checkpoint's circuit, for the page's drawing of it."""

from __future__ import annotations

import torch

from analysis.records.record import Record
from analysis.reporting.dashboard.form import Edges
from analysis.reporting.dashboard.packing import packed

MOST = 1000  # edges of one checkpoint that a page holds


def circuit_edges(record: Record, most: int = MOST) -> Edges:
    """The circuit's edges, those of the largest |score| first."""
    inside = record.circuit.nonzero().flatten()
    scores = record.mean[inside]
    order = scores.abs().argsort(descending=True, stable=True)[:most]
    source, destination = record.graph.edges[inside[order]].T
    return {
        "from": packed(source, "u16"),
        "to": packed(destination, "u16"),
        "score": packed(scores[order].to(torch.float32), "f32"),
        "all": len(inside),
        "left_out": len(inside) - len(order),
    }

"""What a comparison found as JSON, for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis.comparison.definitions import Comparison, Difference, Subject
from analysis.comparison.findings import Findings, base_weights
from analysis.comparison.matching import matched_json
from analysis.comparison.rows import edge_list, head_list
from analysis.files import short_hash
from analysis.heads.between import SETS
from analysis.models.provenance import code_version


def to_json(findings: Findings) -> dict[str, Any]:
    """Everything, traced to where it comes from."""
    return {
        "code": code_version(),
        "q": findings.q,
        "seed": findings.seed,
        "warnings": findings.warnings,
        "subjects": {s.name: subject_json(s) for s in findings.subjects},
        **({} if findings.matched is None else {"matched": matched_json(findings.matched)}),
        "comparisons": [_comparison_json(c) for c in findings.comparisons],
        "layers": {name: asdict(found) for name, found in findings.profiles.items()},
        "cross_faithfulness": {
            **findings.made_with,
            "cells": [asdict(cell) for cell in findings.cells],
        },
    }


def subject_json(subject: Subject) -> dict[str, Any]:
    """What a circuit is and where it comes from."""
    found: dict[str, Any] = {
        "label": subject.label,
        "source": str(subject.source),
        "graph": subject.graph.as_json(),
        "n_edges": int(subject.edges.sum()),
    }
    record = subject.record
    if record is None:
        digest = short_hash(subject.source.read_bytes())
        return {**found, "file_hash": digest, "intervals": False}
    names = ("step", "pairs_hash", "n_pairs", "settings", "selection", "origin")
    return {
        **found,
        "intervals": subject.can_be_resampled,
        **{name: getattr(record, name) for name in names},
        "faithfulness": asdict(record.faithfulness()),
        "base_weights": base_weights(subject),
    }


def _difference_json(d: Difference) -> dict[str, Any]:
    numbers = {name.replace(" ", "_"): asdict(value) for name, value in d.numbers.items()}
    return {"numbers": numbers, "null_turnover": d.null_turnover, "null": d.null}


def _comparison_json(c: Comparison) -> dict[str, Any]:
    bases = None
    if c.bases is not None:
        bases = {
            change: {
                "raw": {g: c.a.graph.names_of(mask) for g, mask in since.masks.items()},
                "called": {g: c.a.graph.names_of(mask) for g, mask in since.called.items()},
                "counts": {g: asdict(count) for g, count in since.counts.items()},
                "jaccard": asdict(since.jaccard),
            }
            for change, since in c.bases.items()
        }
    edges = {name: [asdict(row) for row in edge_list(c, name)] for name in SETS}
    return {
        "a": c.a.name,
        "b": c.b.name,
        "heads": {**_difference_json(c.heads), "members": [asdict(row) for row in head_list(c)]},
        "edges": {**_difference_json(c.edges), **edges},
        "against_bases": bases,
    }

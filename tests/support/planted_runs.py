"""Runs with records written by hand.

Every head planted in a record has one edge in and one edge out of score 1 and nothing else has a
score, so the circuit, its resamples and the intervals are known exactly.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from analysis.heads.resampling import Selection, resample_heads, select
from analysis.models.graph import Graph
from analysis.records.evaluations import write_evaluation
from analysis.records.record import Record
from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from analysis.records.training_log import append_metrics
from analysis.reporting.report import write_report
from analysis.trajectories.run import read_runs

GRAPH = Graph(2, 4, 2)
PAIRS, RESAMPLES = 6, 200
BASE = ["a0.h0", "a1.h1"]
FINAL = ["a0.h0", "a0.h2", "a1.h3"]
SELECTION = Selection(20)  # more edges than have a score: the threshold is 0
SCORE = {"problems": 8, "samples": 2, "truncated": 0, "failures": {}}
EVIL = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>"


def plant(
    run: Path,
    step: int,
    heads: list[str],
    rare: tuple[str, ...] = (),
    graph: Graph = GRAPH,
    **changes: Any,
) -> None:
    """Record heads that every pair uses and `rare` heads that only the first pair uses."""
    names = [graph.edge_name(edge) for edge in range(graph.n_edges)]
    per_pair = torch.zeros(PAIRS, graph.n_edges)
    for head in (*heads, *rare):
        source = graph.source_names.index(head)
        into = graph.destination_names[int(graph.readers[:, source].nonzero()[0])]
        for edge in (f"input->{into}", f"{head}->logits"):
            per_pair[: 1 if head in rare else PAIRS, names.index(edge)] = 1.0
    mean = per_pair.mean(0)
    values: dict[str, Any] = {
        "step": step,
        "graph": graph,
        "pairs_hash": "pairs",
        "settings": {"method": "EAP", "resamples": RESAMPLES, "seed": 7},
        "origin": {
            "model": {"type": "qwen2", "path": "hub/base", "weights": "w1", "adapter": f"ad{step}"},
            "code": {"headlab": "9.9", "commit": "abcdef"},
            "config": "c0ffee",
        },
        "selection": asdict(SELECTION),
        "completeness_gap": 0.01,
        "metric_clean": 0.0,
        "metric_corrupted": 2.0,
        "n_pairs": PAIRS,
        "seconds": 1.0,
        "circuit": select(graph, mean, SELECTION),
        "mean": mean,
        "evaluation": torch.tensor([[0.4], [0.0], [2.0]]).repeat(1, PAIRS),
        "resampled": resample_heads(graph, per_pair, SELECTION, RESAMPLES, 7),
    }
    write_record(run, Record(**{**values, **changes}), per_pair)


def configure(run: Path, kind: str = "sft", name: str | None = None) -> Path:
    signal = {"sft": "loss", "grpo": "reward"}.get(kind)
    RunFile(name or run.name, kind, signal, seed=3).write(run)
    config = f"name: {name or run.name}\nseed: 3\ntrain:\n  kind: {kind}\n"
    (run / "config.yaml").write_text(config, encoding="utf-8")
    return run


def make_run(run: Path, heads: list[str], kind: str = "sft", name: str | None = None) -> Path:
    """A run of three checkpoints that ends with `heads`."""
    configure(run, kind, name)
    plant(run, 0, BASE)
    plant(run, 10, [*BASE, *heads[-1:]])
    plant(run, 20, heads)
    for step, value in ((5, 3.0), (10, 2.0), (15, 1.0), (20, 0.5)):
        append_metrics(run, step, {"loss": value, "reward": -value})
    for step in (0, 20):
        write_evaluation(run, step, {"pass_at_1": 0.412, "low": 0.3, "high": 0.5, **SCORE})
    return run


def text_of(page: Path) -> str:
    """What a reader sees of a page, without scripts and tags, on one line."""
    html = re.sub(r"<script.*?</script>|<style.*?</style>", "", page.read_text(), flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def report_of(run: Path) -> str:
    return text_of(write_report(read_runs([run]), run / "report.html"))

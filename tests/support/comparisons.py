"""Records whose difference is known, and how `headlab compare` is asked for it."""

from __future__ import annotations

from pathlib import Path

import torch

from analysis.cli import parse
from analysis.comparison.definitions import Subject
from analysis.comparison.subjects import Options
from analysis.heads.resampling import Selection, resample_heads, select
from analysis.models.graph import Graph
from analysis.records.record import Record
from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile

GRAPH = Graph(2, 4, 2)
EDGE = {GRAPH.edge_name(index): index for index in range(GRAPH.n_edges)}
EARLY = ("input->a0.h0<q>", "a0.h0->logits", "input->m0", "m0->m1", "m1->logits")
LATE = ("input->a0.h0<q>", "a0.h0->m1", "m1->logits", "input->a1.h3<q>", "a1.h3->logits")


def make_record(step: int, per_pair: torch.Tensor, top_n: int, resamples: int = 60) -> Record:
    mean, n_pairs, selection = per_pair.mean(0), len(per_pair), Selection(top_n)
    return Record(
        step=step,
        graph=GRAPH,
        pairs_hash="h",
        settings={"metric": "kl", "resamples": resamples, "seed": 0},
        origin={"model": {"weights": "w", "adapter": None, "path": "", "dtype": "float32"}},
        selection={"top_n": top_n, "tau": None},
        completeness_gap=0.0,
        metric_clean=0.0,
        metric_corrupted=2.0,
        n_pairs=n_pairs,
        seconds=1.0,
        circuit=select(GRAPH, mean, selection),
        mean=mean,
        evaluation=torch.tensor([[0.4], [0.0], [2.0]]).repeat(1, n_pairs),
        resampled=resample_heads(GRAPH, per_pair, selection, resamples, 0),
    )


def plant(edges: tuple[str, ...], n_pairs: int = 12, noise: float = 0.01) -> torch.Tensor:
    """Scores [pairs, E] in which some edges are strong and all others weak."""
    scores = 0.001 + 0.01 * torch.rand(n_pairs, GRAPH.n_edges)
    index = [EDGE[name] for name in edges]
    scores[:, index] = 1 + noise * torch.randn(n_pairs, len(edges))
    return scores


def write_run(path: Path, name: str, scores: dict[int, torch.Tensor], top_n: int) -> Path:
    """A run with a record for each step."""
    RunFile(name, "sft", "loss").write(path)
    for step, per_pair in scores.items():
        write_record(path, make_record(step, per_pair, top_n), per_pair)
    return path


def options(tmp_path: Path, *arguments: str) -> Options:
    return parse(Options, [f"out={tmp_path / 'out'}", "cross=false", *arguments])


def subject(name: str, per_pair: torch.Tensor, top_n: int) -> Subject:
    record = make_record(7, per_pair, top_n)
    return Subject(name, name, Path(name), GRAPH, record.circuit, record.mean, record)


def names_of(found: list[dict]) -> set[str]:
    return {entry["edge"] for entry in found}

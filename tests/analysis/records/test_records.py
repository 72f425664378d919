"""Circuits by hand, records that survive crashes, pairs files."""

from __future__ import annotations

import json

import pytest
import torch

from analysis.circuits.circuit import prune
from analysis.files import atomic_write
from analysis.models.graph import Graph
from analysis.prompts.pairs import Pair, Pairs
from analysis.records.evaluations import write_evaluation
from analysis.records.record import (
    is_recorded,
    read_record,
    read_records,
    read_scores,
    recorded_steps,
    write_record,
)
from analysis.records.training_log import append_metrics, read_metrics
from analysis.tracking.tracker import freeze_pairs
from tests.support.planted import World, make_record

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2)
A, B = (World(seed).scores(8)[0] for seed in (0, 1))


def write(run, step, scores, **changes):
    record = make_record(step, scores, 20, **changes)
    write_record(run, record, scores)
    return record


def edges_named(*names: str) -> torch.Tensor:
    mask = torch.zeros(GRAPH.n_edges, dtype=torch.bool)
    all_names = [GRAPH.edge_name(i) for i in range(GRAPH.n_edges)]
    for name in names:
        mask[all_names.index(name)] = True
    return mask


def test_graph_counts_and_names():
    # input and layer 0's heads feed m0; everything below feeds layer 1, and all feeds the logits
    assert GRAPH.n_edges == 1 * 8 + 5 + 6 * 8 + 10 + 11
    assert GRAPH.parse_head("L1H3") == GRAPH.parse_head("a1.h3") == (1, 3)
    with pytest.raises(ValueError, match="no head L2H0"):
        GRAPH.parse_head("L2H0")
    with pytest.raises(ValueError, match="write a3.h2 or L3H2"):
        GRAPH.parse_head("head 3")


def test_paper_edge_counts():
    """top-5000 is 2.72 % of the ungrouped 28 x 12 graph; grouped, shared heads are single edges."""
    ungrouped = Graph(28, 12, 12)
    assert ungrouped.n_edges == 183_555
    assert Graph(28, 12, 2).n_edges < ungrouped.n_edges


def test_prune_removes_dead_ends_and_keeps_shared_heads():
    edges = edges_named(
        "input->a0.h0<q>",
        "a0.h0->a1.kv0<k>",
        "a1.h1->logits",  # lives: kv0 feeds a1.h1
        "input->a0.h2<q>",  # a0.h2 writes nowhere
        "a0.h3->m0",
        "m0->logits",  # nothing enters a0.h3, so m0 has no input either
        "input->a1.kv1<v>",  # feeds a1.h2 and a1.h3, which write nowhere
    )
    kept = prune(GRAPH, edges[None])[0]
    expected = edges_named("input->a0.h0<q>", "a0.h0->a1.kv0<k>", "a1.h1->logits")
    assert torch.equal(kept, expected)


def test_records_round_trip_and_replace(tmp_path):
    write(tmp_path, 10, B)  # out of order
    first = write(tmp_path, 0, A)
    assert [r.step for r in read_records(tmp_path)] == [0, 10]
    again = read_record(tmp_path, 0)
    assert torch.equal(again.resampled.strength, first.resampled.strength)
    assert torch.equal(again.circuit, first.circuit)
    assert torch.equal(read_scores(tmp_path, 0), A)
    before = (tmp_path / "heads" / "step-000000" / "record.json").read_bytes()
    replaced = write(tmp_path, 10, A)
    assert torch.equal(read_record(tmp_path, 10).in_circuit, replaced.in_circuit)
    assert len(list((tmp_path / "heads" / "step-000010").glob("*.safetensors"))) == 2
    assert (tmp_path / "heads" / "step-000000" / "record.json").read_bytes() == before
    saved = json.loads((tmp_path / "heads" / "step-000010" / "record.json").read_text())
    assert saved["schema"] == 2
    assert saved["circuit"]["heads"] == replaced.graph.names_of(replaced.in_circuit)
    assert saved["circuit"]["faithfulness"]["value"] == pytest.approx(0.8)


def test_records_of_another_schema_or_damaged_are_refused(tmp_path):
    write(tmp_path, 0, A)
    path = tmp_path / "heads" / "step-000000" / "record.json"
    whole = path.read_text()
    path.write_text(whole.replace('"schema": 2', '"schema": 1'))
    with pytest.raises(ValueError, match="has schema 1 and this version reads 2.*headlab track"):
        read_record(tmp_path, 0)
    path.write_text(whole)
    scores, heads = (next(path.parent.glob(f"{kind}-*")) for kind in ("scores", "heads"))
    assert is_recorded(tmp_path, 0)
    scores.unlink()
    assert not is_recorded(tmp_path, 0)  # so it is tracked again,
    read_record(tmp_path, 0)  # and until then the curves, which need no scores, are there
    with pytest.raises(ValueError, match="which is missing; track this step again"):
        read_scores(tmp_path, 0)
    heads.write_bytes(heads.read_bytes()[:50])
    with pytest.raises(ValueError, match="is damaged .*track this step again"):
        read_record(tmp_path, 0)


@pytest.mark.parametrize("crash_at", ["tensors", "json", "rename"])
def test_a_crash_while_writing_leaves_the_old_record(tmp_path, monkeypatch, crash_at):
    import os

    from analysis.records import record

    old = write(tmp_path, 10, A)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    if crash_at == "tensors":
        monkeypatch.setattr(os, "fsync", crash)
    elif crash_at == "json":
        monkeypatch.setattr(record, "write_json", crash)
    else:
        original = type(tmp_path).replace

        def only_tensors(self, target):
            return crash() if target.name == "record.json" else original(self, target)

        monkeypatch.setattr(type(tmp_path), "replace", only_tensors)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 10, B)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 20, B)
    monkeypatch.undo()
    assert [r.step for r in read_records(tmp_path)] == [10]
    assert torch.equal(read_record(tmp_path, 10).circuit, old.circuit)
    assert torch.equal(read_scores(tmp_path, 10), A)
    assert not list(tmp_path.rglob("*.partial"))
    new = write(tmp_path, 10, B)
    assert torch.equal(read_record(tmp_path, 10).circuit, new.circuit)


def test_leftovers_of_a_killed_writer_are_passed_over(tmp_path):
    write(tmp_path, 0, A)
    half = tmp_path / "heads" / "step-000010"
    half.mkdir()
    (half / ".record.json.99.partial").write_text('{"schema": 1, "ste')
    write_evaluation(tmp_path, 0, {"pass_at_1": 0.5})
    (tmp_path / "evaluations" / ".step-000010.json.99.partial").write_text("{")
    assert [r.step for r in read_records(tmp_path)] == [0]
    assert recorded_steps(tmp_path / "evaluations") == [0]


def test_incomparable_records_are_refused(tmp_path):
    write(tmp_path, 0, A)
    write(tmp_path, 10, A, pairs_hash="other")
    with pytest.raises(ValueError, match="steps 0 and 10 differ in pairs_hash"):
        read_records(tmp_path)


def test_atomic_write_keeps_the_old_file_on_error(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_survive_a_cut_line_and_a_resume(tmp_path):
    append_metrics(tmp_path, 1, {"loss": 3.0})
    append_metrics(tmp_path, 2, {"loss": 2.0})
    with open(tmp_path / "metrics.jsonl", "a") as lines:
        lines.write('{"step": 3, "lo')
    append_metrics(tmp_path, 2, {"loss": 2.5})
    assert read_metrics(tmp_path) == {1: {"loss": 3.0}, 2: {"loss": 2.5}}


def test_pairs_hash_and_freezing(tmp_path):
    pairs = Pairs([Pair((1, 2), (1, 3), 4, 5), Pair((7,), (8,))])
    assert freeze_pairs(tmp_path, pairs).hash == pairs.hash
    assert Pairs.load(tmp_path / "pairs.jsonl").hash == pairs.hash
    assert json.loads((tmp_path / "pairs.json").read_text())["hash"] == pairs.hash
    changed = Pairs([Pair((1, 2), (1, 3), 4, 6), Pair((7,), (8,))])
    assert changed.hash != pairs.hash
    with pytest.raises(ValueError, match="holds other pairs"):
        freeze_pairs(tmp_path, changed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"clean_ids": [1], "corrupted_ids": [1, 2]}', "line 2: clean has 1 tokens"),
        ('{"clean_ids": [1]}', "line 2: needs clean and corrupted"),
        ('{"clean": "a", "corrupted": "b"}', "line 2: a pair given as text needs a tokenizer"),
        ('{"clean_ids": [1], "corrupted_ids": [2], "targte_id": 3}', "unknown fields"),
        ("[1, 2]", "line 2: not a JSON object"),
        ("{", "line 2"),
    ],
)
def test_malformed_pairs_are_named_by_line(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"clean_ids": [1], "corrupted_ids": [2]}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        Pairs.load(path)

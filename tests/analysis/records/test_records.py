"""Records survive crashes, and only those that can be compared are read together."""

from __future__ import annotations

import json

import pytest
import torch

from analysis.circuits.graph_contents import parallel_graph
from analysis.records.evaluations import write_evaluation
from analysis.records.record_files import (
    is_recorded,
    read_record,
    read_records,
    read_scores,
    recorded_steps,
    write_record,
)
from tests.support.graphs import ragged_graph
from tests.support.planted import World, make_record
from tests.support.planted_runs import plant

A, B = (World(seed).scores(8)[0] for seed in (0, 1))


def write(run, step, scores, **changes):
    record = make_record(step, scores, 20, **changes)
    write_record(run, record, scores)
    return record


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


@pytest.mark.parametrize("graph", [ragged_graph(), parallel_graph(2, 4, 2, "grouped")], ids=str)
def test_records_of_graphs_that_are_not_regular(tmp_path, graph):
    heads = [graph.head_names[index] for index in (0, 5, graph.n_heads_total - 1)]
    plant(tmp_path, 0, heads, graph=graph)
    plant(tmp_path, 10, heads[:2], graph=graph)
    assert is_recorded(tmp_path, 0)
    base, last = read_records(tmp_path)
    assert base.graph is last.graph
    assert base.graph == graph
    assert base.graph.names_of(base.in_circuit) == heads
    assert read_scores(tmp_path, 10).shape == (6, graph.n_edges)
    # from its layer up to the logits, for each of its edges out
    depths = [graph.n_layers - graph.heads[graph.head_index[graph.parse_head(h)]][0] for h in heads]
    assert base.depths()[base.in_circuit].tolist() == depths
    path = tmp_path / "heads" / "step-000010" / "record.json"
    content = json.loads(path.read_text())
    content["graph"]["shapes"][0]["nodes"][0]["writes"] = 7
    path.write_text(json.dumps(content))
    assert not is_recorded(tmp_path, 10)
    with pytest.raises(ValueError, match="step-000010.*shape 0 of the layers has a node 'm'"):
        read_record(tmp_path, 10)


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

    from analysis.records import record_files

    old = write(tmp_path, 10, A)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    if crash_at == "tensors":
        monkeypatch.setattr(os, "fsync", crash)
    elif crash_at == "json":
        monkeypatch.setattr(record_files, "write_json", crash)
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

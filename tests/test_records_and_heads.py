"""Circuits by hand, head states with planted truth, records that survive crashes."""

from __future__ import annotations

import json

import pytest
import torch

from analysis.circuits import head_importance, prune, select_edges
from analysis.graph import Graph
from analysis.heads import bootstrap_heads, head_states
from analysis.monitor import WandbMirror, head_values, redact
from analysis.pairs import Pair, Pairs
from analysis.records import (
    Record,
    append_metrics,
    atomic_write,
    read_metrics,
    read_record,
    read_records,
    recorded_steps,
    write_evaluation,
    write_record,
)
from analysis.tracker import freeze_pairs

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2)


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
        "input->a0.h0<q>", "a0.h0->a1.kv0<k>", "a1.h1->logits",  # lives: kv0 feeds a1.h1
        "input->a0.h2<q>",  # a0.h2 writes nowhere
        "a0.h3->m0", "m0->logits",  # nothing enters a0.h3, so m0 has no input either
        "input->a1.kv1<v>",  # feeds a1.h2 and a1.h3, which write nowhere
    )  # fmt: skip
    kept = prune(GRAPH, edges[None])[0]
    expected = edges_named("input->a0.h0<q>", "a0.h0->a1.kv0<k>", "a1.h1->logits")
    assert torch.equal(kept, expected)


def planted(strong: list[str], pairs: int = 24, seed: int = 0) -> torch.Tensor:
    """Per-pair scores in which some heads carry strong edges in every pair, over noise."""
    generator = torch.Generator().manual_seed(seed)
    scores = 0.02 * torch.randn(pairs, GRAPH.n_edges, generator=generator)
    for head in strong:
        chosen = edges_named(f"input->{head}<q>", f"{head}->logits")
        scores[:, chosen] += 1 + 0.1 * torch.randn(pairs, 2, generator=generator)
    return scores


def make_record(step: int, strong: list[str], seed: int = 0, **changes) -> Record:
    scores = planted(strong, seed=seed)
    circuit = select_edges(GRAPH, scores.mean(0), 2 * len(strong))
    values = {
        "step": step, "graph": GRAPH, "pairs_hash": "h", "settings": {"metric": "kl"},
        "model": {}, "completeness_gap": 0.1, "metric_clean": 0.0, "metric_corrupted": 1.0,
        "seconds": 1.0, "per_pair": scores, "circuit": circuit,
        "importance": head_importance(GRAPH, scores, circuit),
        "bootstrap": bootstrap_heads(GRAPH, scores, 2 * len(strong), 100, 0),
    }  # fmt: skip
    return Record(**{**values, **changes})


def test_planted_heads_are_found_with_their_intervals():
    base = make_record(0, ["a0.h0", "a0.h1", "a1.h2"])
    now = make_record(5, ["a0.h0", "a1.h2", "a1.h3"], seed=1)
    states = head_states(base.heads, now.heads, base.bootstrap, now.bootstrap)
    named = {name: GRAPH.names_of(mask) for name, mask in states.masks.items()}
    assert named["emergent"] == ["a1.h3"]
    assert named["pruned"] == ["a0.h1"]
    assert named["retained"] == ["a0.h0", "a1.h2"]
    emergent = states.counts["emergent"]
    assert (emergent.value, emergent.low, emergent.high) == (1, 1, 1)
    assert emergent.null_high == 0  # planted heads are in every resample of the base
    assert states.inclusion[GRAPH.head_names.index("a1.h3")] == 1
    assert states.base_inclusion[GRAPH.head_names.index("a1.h3")] == 0
    assert now.importance.sum() == pytest.approx(1)


def test_without_a_change_emergence_stays_within_the_null():
    """Two noisy measurements of the same thing: the raw count is explained by the control."""
    scores = torch.randn(16, GRAPH.n_edges, generator=torch.Generator().manual_seed(0))
    resampled = bootstrap_heads(GRAPH, scores, 12, 4000, 0)
    circuit = select_edges(GRAPH, scores.mean(0), 12)
    base = make_record(0, ["a0.h0"], circuit=circuit, bootstrap=resampled)
    states = head_states(base.heads, base.heads, resampled, resampled)
    assert states.counts["emergent"].value == 0
    other = bootstrap_heads(GRAPH, scores, 12, 4000, seed=1)
    again = head_states(base.heads, other[0], resampled, other).counts["emergent"]
    independent = float((other & ~resampled).sum(1).double().mean())
    assert again.null_mean == pytest.approx(independent, rel=0.1)
    assert again.null_high >= 1


def test_records_round_trip_and_replace(tmp_path):
    first, second = make_record(0, ["a0.h0"]), make_record(10, ["a0.h1"])
    write_record(tmp_path, second)
    write_record(tmp_path, first)  # out of order
    assert [r.step for r in read_records(tmp_path)] == [0, 10]
    before = (tmp_path / "heads" / "step-000000" / "record.json").read_bytes()
    write_record(tmp_path, make_record(10, ["a1.h3"]))
    again = read_record(tmp_path, 10)
    assert GRAPH.names_of(again.heads) == ["a1.h3"]
    assert len(list((tmp_path / "heads" / "step-000010").glob("*.safetensors"))) == 1
    assert (tmp_path / "heads" / "step-000000" / "record.json").read_bytes() == before
    saved = json.loads((tmp_path / "heads" / "step-000010" / "record.json").read_text())
    assert saved["schema"] == 1
    assert saved["circuit"] == {"edges": 2, "heads": ["a1.h3"]}


@pytest.mark.parametrize("crash_at", ["tensors", "json", "rename"])
def test_a_crash_while_writing_leaves_the_old_record(tmp_path, monkeypatch, crash_at):
    import os

    from analysis import records

    write_record(tmp_path, make_record(10, ["a0.h0"]))

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    if crash_at == "tensors":
        monkeypatch.setattr(os, "fsync", crash)
    elif crash_at == "json":
        monkeypatch.setattr(records, "write_json", crash)
    else:
        original = type(tmp_path).replace

        def only_tensors(self, target):
            return crash() if target.name == "record.json" else original(self, target)

        monkeypatch.setattr(type(tmp_path), "replace", only_tensors)
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path, make_record(10, ["a1.h3"]))
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path, make_record(20, ["a1.h3"]))
    monkeypatch.undo()
    assert [r.step for r in read_records(tmp_path)] == [10]
    assert GRAPH.names_of(read_record(tmp_path, 10).heads) == ["a0.h0"]
    assert not list(tmp_path.rglob("*.partial"))
    write_record(tmp_path, make_record(10, ["a1.h3"]))
    assert GRAPH.names_of(read_record(tmp_path, 10).heads) == ["a1.h3"]


def test_leftovers_of_a_killed_writer_are_passed_over(tmp_path):
    write_record(tmp_path, make_record(0, ["a0.h0"]))
    half = tmp_path / "heads" / "step-000010"
    half.mkdir()
    (half / ".record.json.99.partial").write_text('{"schema": 1, "ste')
    write_evaluation(tmp_path, 0, {"pass_at_1": 0.5})
    (tmp_path / "evaluations" / ".step-000010.json.99.partial").write_text("{")
    assert [r.step for r in read_records(tmp_path)] == [0]
    assert recorded_steps(tmp_path / "evaluations") == [0]


def test_incomparable_records_are_refused(tmp_path):
    write_record(tmp_path, make_record(0, ["a0.h0"]))
    write_record(tmp_path, make_record(10, ["a0.h0"], pairs_hash="other"))
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


def test_secrets_are_redacted():
    config = {"hub_token": "abc", "tokenizer": "t", "a": [{"api_key": "k"}], "key": None}
    masked = {"hub_token": "<redacted>", "tokenizer": "t", "a": [{"api_key": "<redacted>"}]}
    assert redact(config) == {**masked, "key": None}


def test_a_wandb_that_always_fails_stops_nothing(tmp_path, monkeypatch):
    import wandb

    def broken(*args, **kwargs):
        raise OSError("no W&B today")

    monkeypatch.setattr(wandb, "init", broken)
    mirror = WandbMirror.start(tmp_path, "x", "p", "offline", {})
    mirror.log(0, {"heads/emergent": 1})
    mirror.finish()

    class Broken:
        log = finish = broken

    failing = WandbMirror(Broken())
    failing.log(0, {})
    failing.finish()


def test_logged_names():
    base, now = make_record(0, ["a0.h0"]), make_record(5, ["a1.h3"])
    states = head_states(base.heads, now.heads, base.bootstrap, now.bootstrap)
    values = head_values(now, states)
    assert values["heads/emergent"] == 1
    assert values["heads/emergent/lo"] <= 1 <= values["heads/emergent/hi"]
    assert values["head/L01H03"] == pytest.approx(1)
    assert values["head/L00H00"] == 0  # pruned

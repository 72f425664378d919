"""Selection of circuits, circuits from and to files, and what circuits do when they are run."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import (
    EdgeScores,
    attribute,
    evaluate_circuit,
    evaluate_circuits,
    read_graph,
    select_circuit,
    write_graph,
)
from analysis.attribution.metrics import METRICS
from analysis.circuits.circuit import Circuit, edge_budget
from analysis.circuits.faithfulness_curve import (
    FRACTIONS,
    area,
    circuits_of,
    crossed,
    curve,
    random_scores,
)
from analysis.circuits.share import PER_HEAD
from analysis.detection.detect import anatomy
from analysis.heads.resampling import resample_weights
from analysis.models.graph import Graph
from analysis.prompts.pairs import Pairs, collate
from tests.support.golden import golden
from tests.support.models import random_pairs, tiny_model
from tests.support.oracle import Oracle
from tests.support.places import GOLDEN

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2)
ONE = torch.zeros(1)


def scored(graph: Graph, **named: float) -> EdgeScores:
    """Scores by edge name, 0 elsewhere."""
    names = [graph.edge_name(i) for i in range(graph.n_edges)]
    values = torch.zeros(graph.n_edges)
    for name, value in named.items():
        values[names.index(name)] = value
    return from_vector(graph, values)


def from_vector(graph: Graph, values: torch.Tensor) -> EdgeScores:
    per_pair = torch.zeros(1, *graph.edge_mask.shape, dtype=values.dtype)
    per_pair[:, graph.edge_mask] = values
    return EdgeScores(graph, per_pair, ONE, ONE)


def names_of(circuit: Circuit) -> set[str]:
    return {circuit.graph.edge_name(int(edge)) for edge in circuit.edges.nonzero()}


CHAIN = {"input->a0.h0<q>": -3.0, "a0.h0->logits": 2.0, "input->logits": 1.0}


def test_top_n_threshold_and_signed():
    scores = scored(GRAPH, **CHAIN)
    assert select_circuit(scores, top_n=2).heads == ["a0.h0"]
    assert select_circuit(scores, top_n=1).n_edges == 0  # a dead end is no circuit
    assert select_circuit(scores, fraction=1.0).n_edges == 3  # score 0 is never selected
    assert names_of(select_circuit(scores, threshold=2.0)) == {"input->a0.h0<q>", "a0.h0->logits"}
    # signed: the edge that hurts ranks last, and a0.h0 dies with it
    assert names_of(select_circuit(scores, top_n=2, signed=True)) == {"input->logits"}
    assert names_of(select_circuit(scores, threshold=0.5, signed=True)) == {"input->logits"}
    assert edge_budget(GRAPH, None, 0.5) == round(GRAPH.n_edges / 2)
    assert edge_budget(GRAPH, None, "auto") == round(PER_HEAD * GRAPH.n_heads_total)
    wrong = (
        *({"top_n": 0}, {"fraction": 0.0}, {"fraction": "all"}, {"top_n": 3, "fraction": 0.1}, {}),
        *({"threshold": 1.0, "top_n": 3}, {"threshold": 1.0, "greedy": True}),
    )
    for options in wrong:
        with pytest.raises(ValueError):
            select_circuit(scores, **options)


def test_greedy_grows_from_the_logits():
    """The strongest edge of all enters only when its reader is in."""
    edges = {
        "a0.h0->a1.kv0<k>": 9.0,  # read by a1.h0 and a1.h1, which are not in
        "a0.h1->logits": 3.0,
        "input->a0.h1<q>": 1.0,
        "input->logits": 0.5,
    }
    scores = scored(GRAPH, **edges)
    assert names_of(select_circuit(scores, top_n=2, greedy=True)) == {
        "a0.h1->logits",
        "input->a0.h1<q>",
    }
    assert "a0.h0->a1.kv0<k>" not in names_of(select_circuit(scores, top_n=3, greedy=True))
    more = scored(GRAPH, **edges, **{"a1.h1->logits": 2.0, "input->a0.h0<q>": 0.2})
    chosen = names_of(select_circuit(more, top_n=6, greedy=True))
    assert {"a0.h0->a1.kv0<k>", "a1.h1->logits", "input->a0.h0<q>"} <= chosen


def test_circuits_equal_the_original_package():
    """Edges and metric of circuits that the EAP-IG package selected and evaluated in float64."""
    for name in ("tiny-qwen2", "tiny-qwen3"):
        model, pairs, reference, _ = golden(name)
        graph = anatomy(model, "ungrouped").graph
        stored = json.loads((GOLDEN / name / "circuits.json").read_text())
        for entry in stored["circuits"]:
            which = "/".join(entry[key] for key in ("case", "metric", "method"))
            scores = from_vector(graph, reference[which][graph.edge_mask])
            greedy = entry["select"] == "greedy_abs"
            circuit = select_circuit(scores, top_n=entry["n"], greedy=greedy)
            assert names_of(circuit) == set(entry["edges"])
            case = entry["case"]
            for metric, sign in (("kl", 1), ("logit_diff", -1)):
                result = evaluate_circuit(model, pairs[case], circuit, metric, batch_size=3)
                baseline = stored["baseline"][case]
                expected = torch.tensor([entry[metric], baseline[f"corrupt_{metric}"]]).double()
                actual = sign * torch.stack([result.circuit, result.empty])
                # logits of Hugging Face differ from true float64 by 5e-6
                assert torch.allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kv", ["grouped", "ungrouped"])
def test_full_circuit_is_the_model_and_the_empty_one_the_corrupted_prompt(architecture, kv):
    model, pairs = tiny_model(architecture), random_pairs(3)
    graph = anatomy(model, kv).graph
    batch = collate(list(pairs))
    with torch.no_grad():
        clean, corrupted = (
            model(ids, attention_mask=batch.mask).logits[batch.rows, batch.positions]
            for ids in (batch.clean, batch.corrupted)
        )
    everything = Circuit(graph, torch.ones(graph.n_edges, dtype=torch.bool))
    result = evaluate_circuit(model, pairs, everything, "logit_diff", batch_size=2)
    metric = METRICS["logit_diff"]
    assert torch.allclose(result.circuit, metric(clean, clean, batch), atol=1e-5)
    assert torch.allclose(result.full, metric(clean, clean, batch), atol=1e-5)
    assert torch.allclose(result.empty, metric(corrupted, clean, batch), atol=1e-5)
    assert result.faithfulness == pytest.approx(1, abs=1e-5)
    # one edge cut is what the oracle says: the change of that destination's input, and no other
    for cut in (0, graph.n_edges // 2, graph.n_edges - 1):
        edges = torch.ones(graph.n_edges, dtype=torch.bool)
        edges[cut] = False
        result = evaluate_circuit(model, pairs, Circuit(graph, edges), "logit_diff")
        u, v = graph.edges[cut].tolist()
        oracle, (source, name) = Oracle(model), (graph.source_names[u], graph.destination_names[v])
        with torch.no_grad():
            _, a = oracle.forward(batch.clean, batch, {})
            _, b = oracle.forward(batch.corrupted, batch, {})
            logits, _ = oracle.forward(batch.clean, batch, {name: b[source] - a[source]})
        assert torch.allclose(result.circuit, metric(logits, clean, batch), atol=1e-5)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_zero_and_mean_ablation(architecture, ablation):
    """With only `input->logits` cut, the final norm reads the stream with the embedding ablated."""
    model, pairs = tiny_model(architecture), random_pairs(3, (5,))
    graph, batch, oracle = anatomy(model).graph, collate(list(pairs)), Oracle(model)
    edges = torch.ones(graph.n_edges, dtype=torch.bool)
    edges[[graph.edge_name(i) for i in range(graph.n_edges)].index("input->logits")] = False
    result = evaluate_circuit(model, pairs, Circuit(graph, edges), "kl", ablation)
    with torch.no_grad():
        clean, outputs = oracle.forward(batch.clean, batch, {})
        embedding = outputs["input"]
        new = embedding.mean((0, 1)) if ablation == "mean" else 0
        logits, _ = oracle.forward(batch.clean, batch, {"logits": new - embedding})
    assert torch.allclose(result.circuit, METRICS["kl"](logits, clean, batch), atol=1e-5)
    assert (result.circuit > 1e-4).all()


def test_evaluation_refuses_what_it_cannot_do():
    model, pairs = tiny_model("qwen2"), random_pairs(2)
    other = Graph(3, 4, 2)
    with pytest.raises(ValueError, match=r"the circuit is of .*n_layers=3.*the model has"):
        evaluate_circuit(model, pairs, Circuit(other, torch.ones(other.n_edges).bool()))
    circuit = Circuit(GRAPH, torch.ones(GRAPH.n_edges).bool())
    with pytest.raises(ValueError, match=r"unknown ablation 'noise'.*patch"):
        evaluate_circuit(model, pairs, circuit, ablation="noise")


def test_faithfulness_curve_and_areas():
    model, pairs = tiny_model("qwen3"), random_pairs(6)
    scores = attribute(model, pairs, kv="ungrouped")
    circuits = circuits_of(scores, greedy=False, signed=False)
    assert [circuit.n_edges for circuit in circuits] == sorted(c.n_edges for c in circuits)
    evaluations = evaluate_circuits(model, pairs, circuits)
    weights = resample_weights(range(6), 100, 0)
    sizes = [circuit.n_edges for circuit in circuits]
    found = curve(sizes, evaluations, weights)
    values = [point[0] for point in found.points]
    assert values[-1] == pytest.approx(1, abs=1e-4)
    assert values[0] == pytest.approx(evaluations[0].faithfulness)
    assert all(low <= high for _, low, high in found.points)
    expected = sum(
        (b - a) * (x + y) / 2
        for a, b, x, y in zip(FRACTIONS, FRACTIONS[1:], values, values[1:], strict=False)
    )
    assert found.cpr[0] == pytest.approx(expected)
    assert found.cmd[0] >= abs(0.999 - found.cpr[0]) - 1e-9
    assert float(area(torch.ones(len(FRACTIONS)))) == pytest.approx(0.999)
    control = random_scores(scores, seed=1)
    assert torch.equal(control.per_edge.sort(1).values, scores.per_edge.sort(1).values)
    same = [evaluations[-1]] * len(circuits)
    with pytest.raises(ValueError, match="no difference that a circuit could explain"):
        curve(sizes, [type(e)(e.full, e.full, e.full) for e in same], weights)


def test_a_curve_on_pairs_that_did_not_rank_its_circuits():
    model, pairs = tiny_model("qwen3"), random_pairs(5)
    scores, half = attribute(model, pairs, kv="ungrouped"), [0, 1, 1, 0, 1]

    def evaluate(rows, circuits):
        return evaluate_circuits(model, Pairs([pairs[row] for row in rows]), circuits)

    def cut(some):
        return [select_circuit(some, top_n=20)]

    sizes, [found] = crossed(scores, half, cut, evaluate)
    both = []
    for row, which in enumerate(half):
        others = [place for place, other in enumerate(half) if other != which]
        circuit = select_circuit(replace(scores, per_pair=scores.per_pair[others]), top_n=20)
        both.append(circuit.n_edges)
        own = evaluate_circuit(model, Pairs([pairs[row]]), circuit)
        assert found.circuit[row] == pytest.approx(float(own.circuit), rel=1e-6)
        assert found.empty[row] == pytest.approx(float(own.empty), rel=1e-6)
    assert sizes == [round((both[0] + both[1]) / 2)]


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([Graph(2, 4, 2), Graph(2, 4, 4, "ungrouped"), Graph(3, 6, 1)]),
    st.integers(0, 99),
    st.sampled_from([".json", ".pt"]),
)
def test_graph_files_give_back_what_was_written(tmp_path_factory, graph, seed, suffix):
    generator = torch.Generator().manual_seed(seed)
    scores = from_vector(graph, torch.randn(graph.n_edges, generator=generator).double())
    circuit = select_circuit(scores, top_n=20)
    path = tmp_path_factory.mktemp("graph") / f"graph{suffix}"
    write_graph(path, circuit, scores.mean, d_model=32)
    read, values = read_graph(path)
    assert read.graph.destination_names == graph.destination_names
    assert torch.equal(read.edges, circuit.edges)
    assert read.heads == circuit.heads
    assert torch.equal(values, scores.mean)


def test_json_is_the_format_of_the_package(tmp_path):
    """Keys and names as `Graph.to_json` of EAP-IG writes them."""
    graph = Graph(1, 2, 2, "ungrouped")
    scores = scored(graph, **{"input->a0.h1<k>": -0.5, "a0.h1->logits": 0.25})
    write_graph(tmp_path / "g.json", select_circuit(scores, top_n=2), scores.mean, d_model=8)
    content = json.loads((tmp_path / "g.json").read_text())
    cfg = {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
    assert content["cfg"] == cfg
    inside = {name for name, node in content["nodes"].items() if node["in_graph"]}
    assert inside == {"input", "a0.h1", "logits"}
    assert content["edges"]["input->a0.h1<k>"] == {"score": -0.5, "in_graph": True}
    assert content["edges"]["input->m0"] == {"score": 0.0, "in_graph": False}
    assert len(content["edges"]) == graph.n_edges


def test_older_files_of_mib_are_read(tmp_path):
    graph = Graph(1, 2, 2, "ungrouped")
    content = {
        "cfg": {"n_layers": 1, "n_heads": 2},
        "src_nodes": dict.fromkeys(graph.source_names, True),
        "dst_nodes": graph.destination_names,
        "edges": graph.edge_mask.float(),
    }
    torch.save(content, tmp_path / "old.pt")
    circuit, scores = read_graph(tmp_path / "old.pt")
    assert circuit.n_edges == graph.n_edges
    assert torch.equal(scores, graph.edge_mask.double())


class Trap:
    def __reduce__(self):
        return (open, ("/tmp/headlab-pickle-was-executed", "w"))


def test_graph_files_that_are_none(tmp_path):
    with open(tmp_path / "evil.pt", "wb") as file:
        pickle.dump({"cfg": Trap()}, file)
    torch.save({"cfg": Trap()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(ValueError, match=name):
            read_graph(tmp_path / name)
    bad = {
        "empty.json": "",
        "list.json": "[]",
        "keys.json": "{}",
        "edge.json": '{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {}, '
        '"edges": {"a7.h0->logits": {"score": 1, "in_graph": true}}}',
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            read_graph(tmp_path / name)

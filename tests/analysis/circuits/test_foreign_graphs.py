"""Circuits found elsewhere mean what they say, or are refused with what is wrong."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.circuits.circuit import Circuit, head_mask, prune
from analysis.circuits.faithfulness import evaluate_circuit
from analysis.circuits.graph_contents import GraphFile, parallel_graph
from analysis.circuits.graph_files import read_circuit, read_graph, write_graph
from analysis.circuits.shared_heads import can_share, share
from analysis.detection.detect import anatomy
from analysis.interventions.head_sets import parse_heads
from analysis.models.graph import Graph
from tests.support.families.build import build
from tests.support.graphs import graph_without_heads, ragged_graph
from tests.support.models import random_pairs

GRAPH = Graph(2, 4, 4, "ungrouped")
CFG = {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 8}
INSIDE = {
    "input->a0.h1<q>": 0.5,
    "a0.h1->logits": 0.1,
    "input->a1.h2<k>": -0.25,
    "a1.h2->logits": -2.0,
    "input->a1.h3<v>": 1.5,
    "a1.h3->logits": 1.0,
}
HEADS = ["L0H1", "L1H2", "L1H3"]
NODES = [*GRAPH.source_names, "logits"]
EDGES = [GRAPH.edge_name(index) for index in range(GRAPH.n_edges)]


def content(scores: bool = True, flags: object = True) -> dict[str, Any]:
    """A file as the package writes it."""
    edges: dict[str, Any] = {}
    for name in EDGES:
        edges[name] = {"in_graph": flags if name in INSIDE else type(flags)(0)}
        if scores:
            edges[name]["score"] = INSIDE.get(name, 0.0)
    nodes = {"input", "logits", "a0.h1", "a1.h2", "a1.h3"}
    return {
        "cfg": dict(CFG),
        "nodes": {name: {"in_graph": flags if name in nodes else type(flags)(0)} for name in NODES},
        "edges": edges,
    }


def node_level(scores: dict[str, float | None]) -> dict[str, Any]:
    """Node by node: the nodes have scores, that of the input is NaN, and the edges have 0."""
    found = content()
    for edge in found["edges"].values():
        edge["score"] = 0.0
    for name, node in found["nodes"].items():
        if name != "logits":
            node["score"] = float("nan") if name == "input" else scores.get(name, 0.0)
    return found


def write(path: Path, found: dict[str, Any]) -> Path:
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def heads(text: str) -> list[str]:
    return [f"L{layer}H{head}" for layer, head in parse_heads(text, GRAPH)]


def test_edge_scores_rank_heads(tmp_path: Path) -> None:
    for flags in (True, 1):
        path = write(tmp_path / "g.json", content(flags=flags))
        assert heads(str(path)) == ["L1H2", "L1H3", "L0H1"]
        assert heads(f"{path}:1") == ["L1H2"]


def test_node_scores_rank_heads(tmp_path: Path) -> None:
    scores = {"a0.h0": 9.0, "a0.h1": -3.0, "a1.h2": 0.5, "a1.h3": 2.0, "m1": -1.0}
    found = node_level(scores)
    path = write(tmp_path / "g.json", found)
    assert heads(f"{path}:2") == ["L0H1", "L1H3"]  # a0.h0 is out
    importance = read_circuit(path).importance[[1, 6, 7]]
    assert torch.allclose(importance, torch.tensor([3.0, 0.5, 2.0]).double() / 5.5)
    found["nodes"]["a0.h0"]["score"] = None  # it is out, and needs none
    assert heads(f"{write(path, found)}:2") == ["L0H1", "L1H3"]


@pytest.mark.parametrize("kind", ["no key", "null", "zero", "nodes null"])
def test_membership_ranks_nothing(tmp_path: Path, kind: str) -> None:
    found = content(scores=kind != "no key")
    for edge in found["edges"].values():
        edge |= {"null": {"score": None}, "zero": {"score": 0}}.get(kind, {})
        if kind == "nodes null":
            del edge["score"]
    if kind == "nodes null":
        found["nodes"] = {name: {**node, "score": None} for name, node in found["nodes"].items()}
    path = write(tmp_path / "g.json", found)
    assert heads(str(path)) == HEADS
    with pytest.raises(ValueError, match=r"g\.json .* no scores, so none of its 3 heads is the"):
        heads(f"{path}:2")


BROKEN: dict[str, tuple[Any, str]] = {
    "no cfg": (lambda c: c.pop("cfg"), "no key 'cfg'"),
    "no nodes": (lambda c: c.pop("nodes"), "no key 'nodes'"),
    "no edges": (lambda c: c.pop("edges"), "no key 'edges'"),
    "no n_heads": (lambda c: c["cfg"].pop("n_heads"), "no key 'n_heads'"),
    "layers as text": (lambda c: c["cfg"].update(n_layers="2"), "'n_layers' is no int"),
    "no layers": (lambda c: c["cfg"].update(n_layers=0), "'n_layers' in cfg is 0"),
    "uneven groups": (lambda c: c["cfg"].update(n_kv_heads=3), "evenly"),
    "cfg is a list": (lambda c: c.update(cfg=[]), "'cfg' is no dict"),
    "parallel": (lambda c: c["cfg"].update(parallel_attn_mlp=True), "'a0.h0->m0' runs against"),
    "parallel as text": (lambda c: c["cfg"].update(parallel_attn_mlp="no"), "write true or fals"),
    "layers": (lambda c: c["cfg"].update(layers=[0, 0], n_kv_heads=4), "layers, or neither"),
    "edges are a list": (lambda c: c.update(edges=[1]), "'edges' is no dict"),
    "an edge is a number": (lambda c: c["edges"].update({EDGES[0]: 3}), "no key 'in_graph'"),
    "no flag": (lambda c: c["edges"][EDGES[5]].pop("in_graph"), f"'{EDGES[5]}' has no key"),
    "flag as text": (lambda c: c["edges"][EDGES[5]].update(in_graph="no"), "write true or false"),
    "inf": (lambda c: c["edges"][EDGES[5]].update(score=float("inf")), f"'{EDGES[5]}' is inf"),
    "nan": (lambda c: c["edges"][EDGES[5]].update(score=float("nan")), f"'{EDGES[5]}' is nan"),
    "huge": (lambda c: c["edges"][EDGES[5]].update(score=1e308), "is 1e+308; scores must be"),
    "digits": (lambda c: c["edges"][EDGES[5]].update(score=10**400), "a whole number of many digi"),
    "many layers": (lambda c: c["cfg"].update(n_layers=10**6), "more than any model has"),
    "text": (lambda c: c["edges"][EDGES[5]].update(score="0.5"), "'0.5', which is no number"),
    "bool": (lambda c: c["edges"][EDGES[5]].update(score=True), "which is no number"),
    "one null": (lambda c: c["edges"]["a0.h1->logits"].update(score=None), "'a0.h1->logits' is in"),
    "beyond": (lambda c: c["edges"].update({"a2.h0->logits": {"in_graph": True}}), "'a2.h0->log"),
    "node beyond": (lambda c: c["nodes"].update({"a0.h9": {"in_graph": True}}), "'a0.h9' is not"),
    "against": (lambda c: c["edges"].update({"a1.h0->a0.h0<q>": {"in_graph": True}}), "against"),
    "node inf": (lambda c: c["nodes"]["m0"].update(score=float("-inf")), "'m0' is -inf"),
    "node nan": (lambda c: c["nodes"]["a0.h1"].update(score=float("nan")), "'a0.h1' is nan"),
    "neurons": (lambda c: c["nodes"]["m0"].update(neurons=[True]), "circuit of neurons"),
    "all out": (
        lambda c: [edge.update(in_graph=False) for edge in c["edges"].values()],
        "flags every edge out, so it holds no circuit yet: choose a size",
    ),
    "no path": (
        lambda c: [e.update(in_graph=name == EDGES[0]) for name, e in c["edges"].items()],
        "no path of its edges",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    found = content()
    damage, message = BROKEN[name]
    damage(found)
    path = write(tmp_path / "g.json", found)
    for use in (read_circuit, lambda p: heads(f"{p}:1")):
        with pytest.raises(ValueError, match=r"g\.json") as caught:
            use(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_node_without_a_score_can_not_be_ranked(tmp_path: Path) -> None:
    path = write(tmp_path / "g.json", node_level({"a0.h1": 1.0, "a1.h2": None, "a1.h3": 2.0}))
    with pytest.raises(ValueError, match="node 'a1.h2' is in and has no score"):
        heads(f"{path}:1")


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    text = json.dumps(content()).replace(f'"{EDGES[1]}"', f'"{EDGES[0]}"')
    (tmp_path / "g.json").write_text("\ufeff" + text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"the key '{EDGES[0]}' twice"):
        read_circuit(tmp_path / "g.json")


def tensors(**changes: Any) -> dict[str, Any]:
    """A .pt file as the package writes it."""
    graph, inside = GRAPH, torch.tensor([name in INSIDE for name in EDGES])
    scores = torch.full(graph.edge_mask.shape, torch.nan)  # where there is no edge
    scores[graph.edge_mask] = torch.tensor([INSIDE.get(name, 0.0) for name in EDGES])
    flags = torch.zeros_like(graph.edge_mask)
    flags[graph.edge_mask] = inside
    nodes = torch.tensor([name in ("input", "a0.h1", "a1.h2", "a1.h3") for name in NODES[:-1]])
    found = {
        "cfg": CFG,
        "src_nodes": graph.source_names,
        "dst_nodes": graph.destination_names,
        "edges_scores": scores,
        "edges_in_graph": flags,
        "nodes_in_graph": nodes,
    }
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def test_files_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "g.pt"
    torch.save(tensors(), path)
    assert heads(f"{path}:2") == ["L1H2", "L1H3"]
    of_nodes = torch.arange(11.0)
    of_nodes[0] = torch.nan
    torch.save(tensors(nodes_scores=of_nodes, edges_scores=torch.zeros(11, 27)), path)
    assert heads(f"{path}:2") == ["L1H3", "L1H2"]
    bad = of_nodes.clone()
    bad[2] = torch.inf
    wrong = {
        "choose a size": {"edges_in_graph": torch.zeros(11, 27)},
        "does not say which edges are in.*choose a size": {"edges_in_graph": None},
        "circuit of neurons": {"neurons_in_graph": torch.ones(11, 8)},
        "'edges_scores' holds a score that is not finite": {
            "edges_scores": torch.full((11, 27), torch.inf)
        },
        "'nodes_scores' holds a score": {"nodes_scores": bad},
        "'edges_scores' has the shape": {"edges_scores": torch.zeros(11, 26)},
        "'edges_scores' is no Tensor": {"edges_scores": [1]},
        "no key 'src_nodes'": {"src_nodes": None},
        "src_nodes are not those": {"src_nodes": ["input"]},
        "neither edges_scores nor edges": {"edges_scores": None},
        "src_nodes are not those of": {"src_nodes": 1},
        "'edges_scores' has to be a dense tensor": {"edges_scores": torch.ones(11, 27).to_sparse()},
        "'edges_scores' has to be a dense .* real": {"edges_scores": torch.ones(11, 27) * 1j},
        "'edges_in_graph' holds other values": {"edges_in_graph": torch.full((11, 27), torch.nan)},
        "'nodes_in_graph' holds other values": {"nodes_in_graph": torch.full((11,), 2.0)},
        "'edges_scores' .* no number of 32 bits": {
            "edges_scores": torch.ones(11, 27).double() * 1e39
        },
    }
    for message, changes in wrong.items():
        torch.save(tensors(**changes), path)
        with pytest.raises(ValueError, match=rf"g\.pt.*{message}"):
            read_circuit(path)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_edges_of_query_heads_on_a_graph_that_shares_heads(kv_heads: int) -> None:
    """Scores add up, heads stay, names go to those of the group."""
    shared = Graph(2, 4, kv_heads)
    generator = torch.Generator().manual_seed(kv_heads)
    scores = torch.randn(GRAPH.n_edges, generator=generator).double()
    chosen = torch.rand(GRAPH.n_edges, generator=generator) < 0.15
    edges = prune(GRAPH, chosen[None])[0]
    file = GraphFile(Circuit(GRAPH, edges), scores, None, head_mask(GRAPH, edges))
    assert can_share(GRAPH, shared)
    found = share(file, shared)
    wanted = dict.fromkeys(range(shared.n_edges), 0.0)
    names = {shared.edge_name(index): index for index in range(shared.n_edges)}
    for index, name in enumerate(EDGES):
        node, _, side = name.partition("<")
        if side in ("k>", "v>"):
            stem, _, head = node.rpartition(".h")
            name = f"{stem}.kv{int(head) * kv_heads // 4}<{side}"
        wanted[names[name]] += float(scores[index])
        if edges[index]:
            assert found.circuit.edges[names[name]]
    assert torch.allclose(found.scores, torch.tensor(list(wanted.values())).double())
    assert torch.equal(found.heads, file.heads)
    assert torch.equal(prune(shared, found.circuit.edges[None])[0], found.circuit.edges)
    if kv_heads == 4:
        assert torch.equal(found.circuit.edges, edges)  # nothing is shared
    assert not can_share(shared, GRAPH) or kv_heads == 4
    assert not can_share(GRAPH, Graph(3, 4, kv_heads))


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_what_we_write_is_the_circuit_that_is_read(tmp_path: Path, suffix: str) -> None:
    graph = Graph(2, 4, 2, "ungrouped")  # of a model that shares heads, edge by edge
    edges = torch.tensor([name in INSIDE for name in EDGES])
    scores = torch.zeros(graph.edge_mask.shape)
    scores[graph.edge_mask] = torch.tensor([INSIDE.get(name, 0.0) for name in EDGES])
    write_graph(tmp_path / f"g{suffix}", Circuit(graph, edges), scores, 8)
    file = read_circuit(tmp_path / f"g{suffix}")
    assert torch.equal(file.circuit.edges, edges)
    circuit, read = read_graph(tmp_path / f"g{suffix}")
    assert torch.equal(circuit.edges, edges)
    assert torch.equal(read, scores.double())


OTHERS = (
    *(ragged_graph(), graph_without_heads(), parallel_graph(2, 4, 2, "grouped")),
    *(parallel_graph(2, 4, 4, "ungrouped"), replace(ragged_graph(), kv="ungrouped")),
)


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize("graph", OTHERS, ids=str)
def test_files_of_graphs_that_are_not_regular(tmp_path: Path, suffix: str, graph: Graph) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(graph.edge_mask.shape, generator=generator) * graph.edge_mask
    edges = prune(graph, torch.rand(1, graph.n_edges, generator=generator) < 0.6)[0]
    path = tmp_path / f"g{suffix}"
    write_graph(path, Circuit(graph, edges), scores, 8)
    file = read_circuit(path)
    assert file.circuit.graph == graph
    assert torch.equal(file.circuit.edges, edges)
    assert torch.equal(read_graph(path)[1], scores.double())
    assert torch.equal(file.heads, head_mask(graph, edges))
    if graph.heads:
        ranked = parse_heads(str(path), graph)
        shares = [float(file.importance[graph.head_index[head]]) for head in ranked]
        assert shares == sorted(shares, reverse=True)
        assert len(ranked) == int(file.heads.sum())


def test_names_of_what_a_regular_graph_does_not_have(tmp_path: Path) -> None:
    graph = ragged_graph()
    circuit = Circuit(graph, torch.ones(graph.n_edges, dtype=torch.bool))
    write_graph(tmp_path / "g.json", circuit, torch.ones(graph.edge_mask.shape), 8)
    found = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    wanted = ("input->a0.h2<g>", "a1.h0->a3.*<kv>", "x2->m2", "m3->m3.1", "a4.h0->a4.h3<in>")
    assert set(wanted) < set(found["edges"])
    assert {"x2", "m3.1", "a4.h3"} < set(found["nodes"])
    assert "a0.h0->a1.h3<in>" not in found["edges"]  # a head that layer 1 does not have


def parallel_content() -> dict[str, Any]:
    """As the package writes it of a model with parallel blocks, such as Pythia."""
    graph, found = parallel_graph(2, 4, 4, "ungrouped"), content()
    names = [graph.edge_name(edge) for edge in range(graph.n_edges)]
    found["cfg"]["parallel_attn_mlp"] = True
    return {**found, "edges": {name: found["edges"][name] for name in names}}


def test_a_parallel_file_is_read_and_goes_onto_the_graph_of_its_model(tmp_path: Path) -> None:
    path = write(tmp_path / "g.json", parallel_content())
    file = read_circuit(path)
    assert file.circuit.graph.n_edges == GRAPH.n_edges - 2 * 4  # no head writes to its own MLP
    for model in (
        parallel_graph(2, 4, 2, "grouped"),
        _with_two_points(parallel_graph(2, 4, 1, "grouped")),
    ):
        assert can_share(file.circuit.graph, model)
        found = share(file, model)
        assert torch.equal(found.heads, file.heads)
        assert found.scores is not None
        assert float(found.scores.sum()) == pytest.approx(sum(INSIDE.values()))
        write_graph(path, found.circuit, torch.zeros(model.edge_mask.shape), 8)
        cfg = json.loads(path.read_text(encoding="utf-8"))["cfg"]
        assert cfg["parallel_attn_mlp"] is True
        assert read_graph(path)[0].graph == model
    for other in (Graph(2, 4, 4), Graph(2, 4, 2), parallel_graph(2, 2, 2, "grouped")):
        assert not can_share(file.circuit.graph, other)
        assert not can_share(other, file.circuit.graph)


def test_the_graph_of_a_parallel_file_is_that_of_such_a_model(tmp_path: Path) -> None:
    model, pairs = build("gpt_neox"), random_pairs(2)
    assert anatomy(model).graph == parallel_graph(2, 4, 4, "grouped")
    file = read_circuit(write(tmp_path / "g.json", parallel_content()))
    assert evaluate_circuit(model, pairs, file.circuit).faithfulness != 0
    of_another = Circuit(GRAPH, torch.ones(GRAPH.n_edges, dtype=torch.bool))  # names are the same
    with pytest.raises(ValueError, match=r"the circuit is of Graph\(.*, the model has Graph\("):
        evaluate_circuit(model, pairs, of_another)


def _with_two_points(graph: Graph) -> Graph:
    """The same, but that the heads have arrived before the MLP has, which reads neither."""
    layers = tuple(
        replace(shape, points=2, nodes=(replace(shape.nodes[0], writes=2),))
        for shape in graph.shapes
    )
    return replace(graph, layers=layers)


class Trap:
    """Pickled, it writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_no_graph_file_is_executed(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "executed")
    for suffix in (".pt", ".json"):
        for name, evil in (("whole", trap), ("cfg", {**tensors(), "cfg": trap})):
            path = tmp_path / f"{name}{suffix}"
            for write_to in (
                lambda p, e: p.write_bytes(pickle.dumps(e)),
                lambda p, e: torch.save(e, p),
            ):
                write_to(path, evil)
                for read in (read_circuit, read_graph, lambda p: heads(f"{p}:1")):
                    with pytest.raises(ValueError, match=path.name) as caught:
                        read(path)
                    assert "\n" not in str(caught.value)
    assert not trap.path.exists()

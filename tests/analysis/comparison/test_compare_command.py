"""Comparisons of records and graph files whose difference is known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markupsafe import escape

from analysis.circuits.circuit import Circuit
from analysis.circuits.graph_files import write_graph
from analysis.commands.compare import act
from analysis.comparison.subjects import read_subject
from analysis.interventions.head_sets import parse_heads
from analysis.models.graph import Graph
from analysis.records.record_files import read_record, write_invalid, write_record
from tests.support.comparisons import (
    EARLY,
    GRAPH,
    LATE,
    make_record,
    names_of,
    options,
    plant,
    write_run,
)


def write_file(path: Path, edges: tuple[str, ...], graph: Graph = GRAPH) -> Path:
    """A graph file in which some edges are in, with scores from 1 down."""
    chosen = torch.zeros(graph.n_edges, dtype=torch.bool)
    scores = torch.zeros(graph.n_sources, graph.n_destinations)
    for rank, name in enumerate(edges):
        index = next(i for i in range(graph.n_edges) if graph.edge_name(i) == name)
        chosen[index] = True
        scores[tuple(graph.edges[index].tolist())] = 1 - 0.1 * rank
    write_graph(path, Circuit(graph, chosen), scores, 32)
    return path


def test_planted_heads_and_edges(tmp_path, capsys):
    """Heads and edges that were put in are those found; the raw, the called, the text, the JSON."""
    torch.manual_seed(0)
    early, late = {0: plant(EARLY), 4: plant(EARLY)}, {0: plant(EARLY), 8: plant(LATE)}
    one = write_run(tmp_path / "one", "one", early, len(EARLY))
    two = write_run(tmp_path / "two", "two", late, len(LATE))
    act(options(tmp_path, f"a={one}", f"b={two}@8"))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= 80
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (pair,) = found["comparisons"]
    numbers = pair["heads"]["numbers"]
    assert {h["head"]: h["change"] for h in pair["heads"]["members"]} == {
        "a0.h0": "shared",
        "a1.h3": "gained",
    }
    assert numbers["gained"] == {"value": 1, "low": 1, "high": 1}
    assert numbers["jaccard"]["value"] == 0.5
    gained = next(h for h in pair["heads"]["members"] if h["head"] == "a1.h3")
    assert gained["called"] is True
    assert (gained["inclusion_a"], gained["inclusion_b"]) == (0, 1)
    assert gained["effect"]["value"] == pytest.approx(1, abs=1e-4)
    assert "heads gained: L1H3* (0.00 → 1.00)" in text
    edges = pair["edges"]
    assert names_of(edges["shared"]) == set(EARLY) & set(LATE)
    assert names_of(edges["lost"]) == set(EARLY) - set(LATE)
    assert names_of(edges["gained"]) == set(LATE) - set(EARLY)
    assert all((e["inclusion_a"], e["inclusion_b"]) == (0, 1) for e in edges["gained"])
    assert edges["numbers"]["jaccard"]["value"] == pytest.approx(2 / 8)
    assert edges["null_turnover"] == 0
    bases = pair["against_bases"]["emergent"]
    assert bases["raw"] == {"both": [], "only a": [], "only b": ["a1.h3"]}
    assert bases["called"] == bases["raw"]
    assert found["subjects"]["b"]["step"] == 8
    assert found["subjects"]["b"]["origin"]["model"]["weights"] == "w"
    layers = found["layers"]["b"]["heads"]
    assert [layer["value"] for layer in layers] == [1, 1]
    assert "empty, because cross=false" in text
    assert text.count("Take care") == 1 and "There are 12 pairs only" in text


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_graph_files(tmp_path, capsys, suffix):
    """Against a file and against a record: raw sets, and no number pretends to an interval."""
    torch.manual_seed(5)
    file = write_file(tmp_path / f"early.{suffix}", EARLY)
    other = write_file(tmp_path / f"late.{suffix}", (*LATE, "input->a1.h0<q>"))  # a dead end
    run = write_run(tmp_path / "run", "run", {8: plant(LATE)}, len(LATE))
    act(options(tmp_path, f"a={file}", f"b={other}", f"c={run}"))
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(c["a"], c["b"]) for c in found["comparisons"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in found["comparisons"]:
        for kind in ("heads", "edges"):
            numbers = pair[kind]["numbers"].values()
            assert all(number["low"] is None and number["high"] is None for number in numbers)
            assert pair[kind]["null_turnover"] is None
        assert {h["called"] for h in pair["heads"]["members"]} == {None}
    for pair in found["comparisons"][:2]:
        assert names_of(pair["edges"]["gained"]) == set(LATE) - set(EARLY)
        assert pair["heads"]["numbers"]["gained"]["value"] == 1
    same = found["comparisons"][2]
    assert same["heads"]["numbers"]["jaccard"]["value"] == 1
    assert same["edges"]["numbers"]["jaccard"]["value"] == 1
    assert found["subjects"]["a"]["intervals"] is False
    assert "has no intervals" in " ".join(text.split())
    act(options(tmp_path, f"a={file}", f"b={other}", "cross=true"))
    text = " ".join(capsys.readouterr().out.split())
    assert "does not name its model; give model_a=DIR" in text


def test_what_can_not_be_compared_is_refused(tmp_path):
    torch.manual_seed(6)
    one = write_run(tmp_path / "one", "one", {0: plant(EARLY), 40: plant(EARLY)}, 4)
    other = plant(EARLY)
    two = write_run(tmp_path / "two", "two", {}, 4)
    write_record(two, replace(make_record(3, other, 4), pairs_hash="other"), other)

    def refused(match: str, *arguments: str) -> None:
        with pytest.raises(ValueError, match=match):
            act(options(tmp_path, *arguments))

    refused(r"a=one@40 and b=two@3: the records .* differ in pairs_hash", f"a={one}", f"b={two}")
    file = write_file(tmp_path / "big.json", EARLY, Graph(3, 4, 2))
    refused("attribute both on one model with the same kv", f"a={one}", f"b={file}")
    refused("b: there is no .*missing; give a run, RUN@STEP", f"a={one}", f"b={tmp_path}/missing")
    refused("b: .* has no record of step 7; it has those of steps 0, 40", f"a={one}", f"b={one}@7")
    refused("b: .*has no record of step 7", f"a={one}", f"b={one}/checkpoint-7")
    refused("must end in @ and a step, such as", f"a={one}", f"b={one}@last")
    (tmp_path / "empty" / "heads").mkdir(parents=True)
    refused("has no records; track its checkpoints", f"a={one}", f"b={tmp_path}/empty")
    refused("holds no directory heads", f"a={one}", f"b={tmp_path}")
    (tmp_path / "no.yaml").touch()
    refused("name must end in .json or .pt", f"a={one}", f"b={tmp_path}/no.yaml")
    (tmp_path / "other.json").write_text("{}")
    refused("is not an EAP-IG graph file", f"a={one}", f"b={tmp_path}/other.json")
    refused("model_c is given, but no c", f"a={one}", f"b={one}@0", "model_c=x")
    both = (f"a={one}", f"b={one}@0")
    refused("model_a: there is no directory ./x", *both, "model_a=./x", "cross=true")
    refused(r"q must lie in \(0, 1\), not 1.5", f"a={one}", f"b={one}@0", "q=1.5")
    refused("unknown dtype 'float8'", f"a={one}", f"b={one}@0", "dtype=float8")
    for given, step in (
        (one, 40),
        (f"{one}@0", 0),
        (one / "heads" / "step-000040", 40),
        (one / "checkpoint-0", 0),
        (one / "heads" / "step-000000" / "record.json", 0),
    ):
        record = read_subject("a", str(given)).record
        assert record is not None and record.step == step


def test_different_bases_are_named(tmp_path, capsys):
    torch.manual_seed(7)
    runs = []
    for name in ("one", "two"):
        scores = {0: plant(EARLY), 4: plant(LATE)}
        run = write_run(tmp_path / name, name, scores, 5)
        base = read_record(run, 0)
        assert base is not None
        write_record(run, replace(base, origin={"model": {"weights": name}}), scores[0])
        runs.append(run)
    act(options(tmp_path, f"a={runs[0]}", f"b={runs[1]}"))
    text = " ".join(capsys.readouterr().out.split())
    assert "start from different bases (weights one and two)" in text
    assert "emergent in both, 1 [1-1] (1): L1H3*" in text


def test_an_invalid_record_is_passed_over_and_named(tmp_path):
    run = write_run(tmp_path / "r", "r", {0: plant(EARLY), 4: plant(LATE)}, 5)
    write_invalid(run, 8, "w is not finite", {})
    found = read_subject("a", str(run))
    assert found.record is not None and found.record.step == 4  # the last that is valid
    with pytest.raises(ValueError, match="step 8 of .* is invalid: w is not finite"):
        read_subject("a", f"{run}@8")
    write_invalid(tmp_path / "none", 0, "w is not finite", {})
    with pytest.raises(ValueError, match="has no records"):
        read_subject("a", str(tmp_path / "none"))
    (run / "run.json").rename(tmp_path / "none" / "run.json")
    with pytest.raises(ValueError, match="no record of step last; it has: none"):
        parse_heads(f"{tmp_path / 'none'}@last:emergent", found.graph)


def test_a_circuit_that_is_not_there_is_said_so(tmp_path, capsys):
    run = write_run(tmp_path / "r", "r", {0: plant(EARLY), 4: plant(LATE)}, 5)
    base = read_record(run, 0)
    lacking = replace(base, gap_metric="logit_diff", gap=-torch.ones(base.n_pairs))
    write_record(run, lacking.without_circuit(), plant(EARLY))
    act(options(tmp_path, f"a={run}@0", f"b={run}@0"))
    text = " ".join(capsys.readouterr().out.split())
    assert "a has no circuit: the model does not show the behaviour on these pairs" in text
    assert "is -1.00 [-1.00, -1.00], not above 0" in text
    assert "weighted overlap 1.00 [1.00, 1.00]" in text  # as Jaccard's, of nothing with nothing


def test_the_page_is_whole_and_escaped(tmp_path):
    torch.manual_seed(8)
    name = "<script>alert('x')</script>"
    runs = [write_run(tmp_path / path, name, {0: plant(EARLY), 4: plant(LATE)}, 5) for path in "xy"]
    act(options(tmp_path, f"a={runs[0]}", f"b={runs[1]}@0"))
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert name not in page
    assert escape(f"{name}@4") in page
    assert 'id="effect-a-b"' in page and 'id="layers"' in page
    assert "input-&gt;a1.h3&lt;q&gt;" in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)=["\']?http', page)
    assert [path.name for path in (tmp_path / "out").iterdir() if "partial" in path.name] == []


UNGROUPED = Graph(2, 4, 4, "ungrouped")
SPLIT = (*LATE[:3], "input->a1.h2<k>", "input->a1.h3<k>", "a1.h2->logits", "a1.h3->logits")


def test_a_circuit_of_query_heads_against_a_run_that_shares_heads(tmp_path, capsys):
    """As the EAP-IG package writes it: an edge for each query head, where the run has one."""
    torch.manual_seed(3)
    joined = ("input->a1.kv1<k>", "a1.h2->logits", "a1.h3->logits")
    run = write_run(tmp_path / "run", "run", {8: plant((*LATE[:3], *joined))}, 6)
    file = write_file(tmp_path / "theirs.json", SPLIT, UNGROUPED)
    ours = write_file(tmp_path / "ours.json", (*LATE[:3], *joined), GRAPH)
    act(options(tmp_path, f"a={run}", f"b={file}", f"c={ours}"))
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for pair in found["comparisons"]:
        assert pair["heads"]["numbers"]["jaccard"]["value"] == 1
        assert pair["edges"]["numbers"]["jaccard"]["value"] == 1
        assert {edge["edge"] for edge in pair["edges"]["shared"]} == {*LATE[:3], *joined}
    [edge] = [e for e in found["comparisons"][0]["edges"]["shared"] if "kv1" in e["edge"]]
    assert edge["score_b"] == pytest.approx(0.7 + 0.6)
    assert len([text for text in found["warnings"] if "taken as one edge" in text]) == 1
    assert "b: the file has a k and a v edge" in " ".join(capsys.readouterr().out.split())
    # a run that has an edge for each query head, and its own exported file
    each = Graph(2, 4, 2, "ungrouped")
    write_graph(tmp_path / "each.json", *_circuit_and_scores(each, SPLIT), 32)
    act(options(tmp_path, f"a={tmp_path / 'each.json'}", f"b={file}"))
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["comparisons"][0]["edges"]["numbers"]["jaccard"]["value"] == 1


def _circuit_and_scores(graph, edges):
    chosen = torch.tensor([graph.edge_name(i) in edges for i in range(graph.n_edges)])
    return Circuit(graph, chosen), torch.ones(graph.edge_mask.shape)


@pytest.mark.parametrize("kind", ["nodes", "membership"])
def test_files_without_scores_of_edges(tmp_path, capsys, kind):
    torch.manual_seed(4)
    run = write_run(tmp_path / "run", "run", {8: plant(LATE)}, len(LATE))
    file = write_file(tmp_path / "file.json", (*EARLY, "input->a1.h1<q>", "a1.h1->logits"))
    content = json.loads(file.read_text())
    for edge in content["edges"].values():
        edge["score"] = 0.0
    if kind == "nodes":
        for name, node in content["nodes"].items():
            node["score"] = {"a0.h0": -3.0, "a1.h1": 1.0}.get(name, 0.0)
    file.write_text(json.dumps(content))
    act(options(tmp_path, f"a={run}", f"b={file}"))
    text = " ".join(capsys.readouterr().out.split())
    [pair] = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]
    members = {head["head"]: head for head in pair["heads"]["members"]}
    assert {name: head["change"] for name, head in members.items()} == {
        "a0.h0": "shared",
        "a1.h1": "gained",
        "a1.h3": "lost",
    }
    shares = [members[name]["importance_b"] for name in ("a0.h0", "a1.h1", "a1.h3")]
    assert shares == ([0.75, 0.25, 0.0] if kind == "nodes" else [None] * 3)
    assert ("weighted_overlap" in pair["heads"]["numbers"]) == (kind == "nodes")
    assert ("nothing ranks its heads" in text) == (kind == "membership")
    assert not re.search(r"\bnan\b", text)
    assert {edge["score_b"] for edge in pair["edges"]["shared"]} == {None}

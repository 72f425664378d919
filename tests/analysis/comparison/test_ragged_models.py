"""Comparisons between models whose layers have different heads, or none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from analysis.circuits.circuit import Circuit, prune
from analysis.circuits.graph_contents import parallel_graph
from analysis.circuits.graph_files import write_graph
from analysis.commands.compare import act
from analysis.comparison.figures import effect_map, profile_figure
from analysis.comparison.findings import Findings
from analysis.comparison.pairs import compare_subjects, profile
from analysis.comparison.subjects import read_subject
from analysis.models.graph import Graph
from tests.support.comparisons import options
from tests.support.graphs import graph_without_heads, ragged_graph
from tests.support.planted_runs import configure, plant, text_of

GRAPH = ragged_graph()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """They share L4H2; only the first has L0H0 and L3H1, only the second L1H1 and L1H2."""
    found = []
    for name, heads in (("one", ["a0.h0", "a3.h1"]), ("two", ["a1.h1", "a1.h2"])):
        run = configure(tmp_path_factory.mktemp("runs") / name)
        plant(run, 0, ["a0.h0", "a4.h3"], graph=GRAPH)
        plant(run, 10, [*heads, "a4.h2"], graph=GRAPH)
        found.append(run)
    return found


def file_of(path: Path, graph: Graph, seed: int, share: float = 0.7) -> Path:
    """A circuit at random."""
    generator = torch.Generator().manual_seed(seed)
    edges = prune(graph, torch.rand(1, graph.n_edges, generator=generator) < share)[0]
    scores = torch.rand(graph.edge_mask.shape, generator=generator)
    write_graph(path, Circuit(graph, edges), scores * graph.edge_mask, 8)
    return path


def test_layers_by_layer(runs: list[Path]) -> None:
    one, two = (profile(read_subject("a", str(run))) for run in runs)
    assert [layer.value for layer in one.heads] == [1, 0, 0, 1, 1]
    assert [layer.value for layer in two.heads] == [0, 2, 0, 0, 1]
    assert [layer.high for layer in two.heads] == [0, 2, 0, 0, 1]
    shares = [1 / 3 / 4, 0, math.nan, 1 / 3 / 2, 1 / 3 / 4]  # of a head, and layer 2 has none
    assert [layer.value for layer in one.importance] == pytest.approx(shares, nan_ok=True)


def test_charts_have_gaps_where_there_is_no_head(runs: list[Path]) -> None:
    a, b = (read_subject(name, str(run)) for name, run in zip("ab", runs, strict=True))
    comparison = compare_subjects(a, b)
    ground, of_heads, stars = effect_map(comparison).data
    holes = [[False] * 4, [False] * 3 + [True], [True] * 4, [False] * 2 + [True] * 2, [False] * 4]
    assert [[value is None for value in row] for row in ground.z] == holes
    assert of_heads.z[3][1] == pytest.approx(-1, abs=1e-4)
    assert of_heads.z[1][2] == pytest.approx(1, abs=1e-4)
    assert of_heads.z[4][2] == 0.0
    assert sorted(zip(stars.y, stars.x, strict=True)) == [(0, 0), (1, 1), (1, 2), (3, 1)]
    profiles = {subject.name: profile(subject) for subject in (a, b)}
    found = Findings([a, b], [comparison], profiles, [], [], {}, 0.05, 0)
    for line in profile_figure(found).data:
        assert [y is None for y in line.y] == [False, False, True, False, False]
        assert line.error_y.array is not None


def test_runs_are_compared(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    act(options(tmp_path, f"a={runs[0]}", f"b={runs[1]}"))
    said = capsys.readouterr().out
    assert "heads lost: L0H0* (1.00 → 0.00), L3H1* (1.00 → 0.00)" in said
    assert "heads gained: L1H1* (0.00 → 1.00), L1H2* (0.00 → 1.00)" in said
    assert "input->a1.h1<in>" in said
    assert "Linear attention or state space: all heads of layer 1 and heads L4H2-3." in said
    page = text_of(tmp_path / "out" / "comparison.html")
    assert "grey ones are in neither circuit" in page
    assert "L1H1 linear gained yes" in page
    assert "a: graph = Graph(n_layers=5, n_heads=[4, 3, 0, 2, 4]" in page
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["subjects"]["a"]["graph"] == json.loads(json.dumps(GRAPH.as_json()))
    assert found["layers"]["a"]["importance"][2]["value"] is None


@pytest.mark.parametrize("graph", [GRAPH, graph_without_heads()], ids=str)
def test_files_are_compared(graph: Graph, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, two = (file_of(tmp_path / f"{seed}.json", graph, seed) for seed in (1, 2))
    act(options(tmp_path, f"a={one}", f"b={two}"))
    said = capsys.readouterr().out
    assert "edges gained: " in said
    if not graph.heads:
        assert "heads gained: none" in said
        assert "nan" not in said


def test_a_file_of_parallel_blocks_against_a_run_of_its_model(tmp_path: Path) -> None:
    model = parallel_graph(2, 4, 2, "grouped")
    run = configure(tmp_path / "run")
    plant(run, 0, ["a0.h0", "a1.h3"], graph=model)
    each = parallel_graph(2, 4, 4, "ungrouped")
    edges = torch.zeros(each.n_edges, dtype=torch.bool)
    names = [each.edge_name(edge) for edge in range(each.n_edges)]
    for name in ("input->a1.h2<k>", "a1.h2->logits", "input->a0.h0<q>", "a0.h0->logits"):
        edges[names.index(name)] = True
    write_graph(tmp_path / "g.json", Circuit(each, edges), torch.ones(each.edge_mask.shape), 8)
    act(options(tmp_path, f"a={run}", f"b={tmp_path / 'g.json'}"))
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"][0]
    assert {row["head"]: row["change"] for row in found["heads"]["members"]} == {
        **{"a0.h0": "shared", "a1.h2": "gained", "a1.h3": "lost"},
    }


def test_models_of_another_shape_are_refused_in_one_line(runs: list[Path], tmp_path: Path) -> None:
    other = file_of(tmp_path / "other.json", Graph(5, 4, 2), 3)
    with pytest.raises(
        ValueError, match=r"n_heads=\[4, 3, 0, 2, 4\].* no edges in common"
    ) as caught:
        act(options(tmp_path, f"a={runs[0]}", f"b={other}"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500

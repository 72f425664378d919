"""Reports of models whose layers have different heads, of two kinds, or none."""

from __future__ import annotations

import pytest

from analysis.heads.roles import Roles, Score
from analysis.models.graph import Graph
from analysis.reporting.figures.head_map import head_map_content
from analysis.reporting.kinds import kinds_note
from analysis.reporting.pictures import CELL, COLOURS, GREY, INK, WHITE, head_map_picture
from analysis.reporting.roles import TITLES, format_roles
from analysis.reporting.rows import MAP_TITLES, head_values, map_rows, media
from analysis.reporting.sections import section
from analysis.reporting.tables import HEAD_TITLES, format_table, head_cells, head_titles
from analysis.reporting.wandb_view import moved_most
from analysis.trajectories.run import Run
from tests.support.graphs import (
    gated_layer,
    graph_without_heads,
    linear_layer,
    mixer_layer,
    ragged_graph,
    two_attentions,
)
from tests.support.planted_runs import configure, plant

GRAPH = ragged_graph()
NOTE = "Linear attention or state space: all heads of layer 1 and heads L4H2-3."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """L0H0 stays, L3H1 and L4H2 emerge, L1H1 and L4H3 go."""
    path = configure(tmp_path_factory.mktemp("ragged") / "run")
    plant(path, 0, ["a0.h0", "a1.h1", "a4.h3"], graph=GRAPH)
    plant(path, 10, ["a0.h0", "a3.h1", "a4.h2"], graph=GRAPH)
    return Run.read(path)


def test_loggers_rows_name_heads_by_layer_and_head(run: Run) -> None:
    names = {"head/L00H00", "head/L01H01", "head/L04H03", "head/L03H01", "head/L04H02"}
    values = head_values(run.points)
    assert {name for name in values if name.startswith("head/L")} == names
    assert set(moved_most(run.points, 40)) == names
    assert values["head/L03H01"] == pytest.approx(1 / 3)
    assert values["head/L04H03"] == 0.0


def test_the_map_as_a_table_has_the_heads_that_there_are(run: Run) -> None:
    rows = map_rows(run.points[-1])
    assert [(layer, head) for _, layer, head, *_ in rows] == GRAPH.heads
    states = {(row[1], row[2]): (row[4], row[-1]) for row in rows}
    assert states[3, 1] == ("emergent", "softmax")
    assert states[1, 1] == ("pruned", "linear")
    assert states[1, 2] == ("none", "linear")
    shown = media(run.points, run.path)
    assert shown.tables["heads/map_table"] == ([*MAP_TITLES, "kind"], rows)
    titles, cells = shown.tables["heads/table"]
    assert {len(row) for row in cells} == {len(titles)}


def test_tables_have_a_column_for_the_kind(run: Run) -> None:
    titles = head_titles(GRAPH)
    assert titles == ["head", "kind", *HEAD_TITLES[1:]]
    cells = {row[0]: dict(zip(titles, row, strict=True)) for row in head_cells(run)}
    assert {name: cell["kind"] for name, cell in cells.items()} == {
        **{"L0H0": "softmax", "L3H1": "softmax"},
        **{"L1H1": "linear", "L4H2": "linear", "L4H3": "linear"},
    }
    assert cells["L3H1"]["depth"] == "2.0"  # from layer 3 to the logits above layer 4
    assert head_titles(Graph(2, 4, 2)) == list(HEAD_TITLES)
    assert NOTE in format_table(run)


def test_roles_have_it_too(run: Run) -> None:
    scores = {"copying": Score([0.5] * 13, [float("nan")] * 13, [float("nan")] * 13, 0)}
    roles = Roles([f"L{layer}H{head}" for layer, head in GRAPH.heads], scores, "token")
    lines = format_roles(roles, run.points[-1].record).splitlines()
    assert lines[0].split()[:2] == ["head", "kind"]
    assert sorted(line.split()[:2] for line in lines[1:4]) == [
        *(["L0H0", "softmax"], ["L3H1", "softmax"], ["L4H2", "linear"]),
    ]
    of_head = [line.split()[1:] for line in lines if line.split()[:1] == ["L0H0"]]
    assert len(TITLES) + 1 == sum(map(len, of_head))
    assert max(map(len, lines)) <= 80


NOTES = [
    (Graph(3, 4, 2), ""),
    (graph_without_heads(), ""),
    (GRAPH, NOTE),
    (
        Graph.of((*[linear_layer()] * 3, gated_layer(), linear_layer()), 2),
        "Linear attention or state space: all heads of layers 0-2, 4.",
    ),
    (
        Graph.of((mixer_layer(), two_attentions()), 1),
        "Linear attention or state space: heads L1H2-3.",
    ),
]


@pytest.mark.parametrize(("graph", "note"), NOTES)
def test_which_heads_are_linear(graph: Graph, note: str) -> None:
    assert kinds_note(graph) == note


def test_the_map_is_empty_where_there_is_no_head(run: Run) -> None:
    content = head_map_content(run)
    cells = [trace for trace in content["data"] if trace["type"] == "heatmap"]
    assert [[value is None for value in row] for row in cells[-1]["z"]] == [
        *([False] * 4, [False] * 3 + [True], [True] * 4, [False] * 2 + [True] * 2, [False] * 4),
    ]
    assert cells[-1]["z"][3][1] == pytest.approx(1 / 3)
    assert cells[-1]["z"][3][0] == 0.0  # a head outside the circuit is no hole
    assert cells[-1]["text"][3][1].startswith("<b>L3H1</b> emergent, called")
    assert cells[-1]["text"][4][2].startswith("<b>L4H2</b> linear attention, emergent, called")
    assert cells[-1]["text"][2] == [None] * 4
    assert cells[-1]["hoverongaps"] is False
    by_name = {trace.get("name"): trace for trace in content["data"] if trace.get("visible", True)}
    called = by_name["emergent, called"]
    assert list(zip(called["y"], called["x"], strict=True)) == [(3, 1), (4, 2)]
    assert sum(x is None for x in by_name["linear attention"]["x"]) == 1 + 5  # gaps between squares
    for step in content["layout"]["sliders"][0]["steps"]:
        assert len(step["args"][1]) == len(content["data"])
        assert step["args"][1][-3:] == [True] * 3


def test_the_picture_is_empty_where_there_is_no_head(run: Run) -> None:
    point = run.points[-1]
    picture = head_map_picture(point)
    assert picture.shape == (5 * CELL, 4 * CELL, 3)

    def cell(layer: int, head: int) -> list[tuple[int, ...]]:
        """Its middle, its frame and its corner."""
        top, left = (4 - layer) * CELL, head * CELL
        pixels = picture[top : top + CELL, left : left + CELL]
        return [tuple(pixels[y, x]) for y, x in ((CELL // 2, 5), (1, 1), (-2, -2))]

    assert cell(0, 0) == [COLOURS["retained"]] * 3
    assert cell(0, 1) == [GREY] * 3
    assert cell(3, 1) == [COLOURS["emergent"], INK, INK]
    assert cell(4, 2) == [COLOURS["emergent"], INK, WHITE]
    assert cell(1, 0) == [GREY, GREY, WHITE]
    for layer, head in ((1, 3), (2, 0), (2, 3), (3, 2)):
        assert cell(layer, head) == [WHITE] * 3


def test_the_report_says_which_heads_there_are(run: Run) -> None:
    found = section(run, "run0")
    assert NOTE in found.legend
    assert found.heads is not None
    assert list(found.heads.heading) == head_titles(GRAPH)
    assert found.shared["graph"].startswith("Graph(n_layers=5, n_heads=[4, 3, 0, 2, 4], n_kv_he")
    assert found.summary is not None
    assert found.summary.lists["Retained"] == "L0H0"

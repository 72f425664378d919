"""The data of the page: what is packed is what the run holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.heads.kept_patterns import KeptPatterns, Prompt, patterns_path, write_patterns
from analysis.reporting.dashboard.form import SETTLED, STATES
from analysis.reporting.dashboard.packing import packed, unpacked
from analysis.reporting.dashboard.page import as_script
from analysis.reporting.dashboard.patterns import shown_patterns
from analysis.reporting.dashboard.terms import TERMS
from analysis.trajectories.run import Run
from tests.support.dashboards import data_of, make_long_run
from tests.support.planted_runs import BASE, EVIL, FINAL, configure, make_run, plant


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_long_run(tmp_path_factory.mktemp("long") / "run")


def test_states_calls_and_shares_are_those_of_the_trajectory(long: Path) -> None:
    run, [data] = Run.read(long), data_of(long)["runs"]
    judged = data["judged"]
    states, called, settled = (unpacked(judged[n]) for n in ("state", "called", "settled"))
    assert states.shape == (6, 8)
    for t, point in enumerate(run.points):
        assert judged["steps"][t] == data["checkpoints"][t]["step"] == point.step
        assert [STATES[s] for s in states[t]] == [state or "never" for state in point.states]
        change = point.change.called
        assert (called[t] == (change["emergent"] | change["pruned"]).numpy()).all()
        for head, code in enumerate(settled[t]):
            expected = [name for name, mask in point.settled.items() if mask[head]] or ["no"]
            assert SETTLED[code] in expected
        now = data["checkpoints"][t]
        for name, expected in (
            ("importance", point.record.shares),
            ("inclusion", point.change.inclusion_after),
            ("p_value", point.change.p_value),
        ):
            np.testing.assert_allclose(unpacked(now[name]), expected.numpy(), 1e-3, 1e-37)
        value, low, high = (unpacked(now[f"importance{end}"]) for end in ("", "_low", "_high"))
        assert (low <= value).all() and (value <= high).all()
        assert ((unpacked(now["margin"]) >= 0) == point.masks["in_circuit"].numpy()).all()


def test_edges_are_the_circuits_with_their_scores(long: Path) -> None:
    run, [data] = Run.read(long), data_of(long)["runs"]
    graph, record = data["graph"], run.points[-1].record
    assert graph is not None
    edges = data["checkpoints"][-1]["edges"]
    source, reader, score = (unpacked(edges[name]) for name in ("from", "to", "score"))
    found = {
        f"{graph['nodes']['name'][a]}->{graph['readers']['name'][b]}": float(s)
        for a, b, s in zip(source, reader, score, strict=True)
    }
    inside = record.circuit.nonzero().flatten().tolist()
    assert found == {record.graph.edge_name(edge): float(record.mean[edge]) for edge in inside}
    assert (edges["all"], edges["left_out"]) == (len(inside), 0)
    assert list(abs(score)) == sorted(abs(score), reverse=True)
    place = graph["readers"]["name"].index("a1.kv1<k>")
    fed = [graph["nodes"]["name"][node] for node in graph["readers"]["feeds"][place]]
    assert (graph["readers"]["side"][place], fed) == ("k", ["a1.h2", "a1.h3"])
    assert graph["nodes"]["head"].count(-1) == 4  # input, two MLPs, logits


def test_columns_and_tiles_say_what_the_table_says(long: Path) -> None:
    run, [data] = Run.read(long), data_of(long)["runs"]
    columns, tiles = data["judged"]["columns"], data["judged"]["tiles"]
    counts = run.points[-1].counts
    for name in ("in_circuit", "emergent", "pruned", "transient"):
        assert columns[name]["value"][-1] == counts[name].value
        assert columns[name]["high"][-1] == pytest.approx(counts[name].high)
    assert [tile["title"] for tile in tiles] == [
        "held-out pass@1",
        "heads in the circuit",
        "called emergent and pruned",
        "faithfulness",
    ]
    for tile in tiles:
        assert {len(tile[part]) for part in ("value", "interval", "change", "note")} == {6}
        assert set(tile["columns"]) <= set(columns)
    assert tiles[0]["value"][-1] == "83.3 %"
    assert tiles[0]["change"][:2] == ["", "+50.0 points since step 0"]
    assert tiles[1]["change"][1] == "+2 since step 0"
    assert all(column["term"] is None or column["term"] in TERMS for column in columns.values())
    assert data["signal"] is not None
    assert data["signal"]["values"][0] == 1.0


@pytest.mark.parametrize(
    ("heads", "rare", "said"),
    [
        (FINAL, (), "2 heads have emerged and 1 was pruned (0.0 and 0.0 by chance); 2 emergent"),
        (BASE, ("a0.h3",), "1 head has emerged and none was pruned, none of them beyond the noise"),
        (BASE, (), "no head has emerged and none was pruned."),
    ],
)
def test_verdict(tmp_path: Path, heads: list[str], rare: tuple[str, ...], said: str) -> None:
    run = configure(tmp_path / "r")
    plant(run, 0, BASE)
    plant(run, 10, heads, rare)
    [sentence] = data_of(run)["verdict"]
    assert sentence.startswith(f"By step 10, {said}")


def test_verdict_of_few_checkpoints_and_pairs(tmp_path: Path) -> None:
    run = configure(tmp_path / "r")
    assert data_of(run)["verdict"] == ["No head was tracked yet."]
    plant(run, 0, BASE)
    assert data_of(run)["verdict"][0].startswith("The base has 2 heads in its circuit; no later")
    for step in (0, 10):
        plant(run, step, BASE if step == 0 else FINAL, n_distinct=1)
    [data] = data_of(run)["runs"]
    assert data["judged"]["verdict"].endswith("the pairs are too few to tell this from chance.")
    assert np.isnan(unpacked(data["checkpoints"][1]["importance_low"])).all()
    assert data["judged"]["tiles"][2]["title"] == "emergent and pruned"


def test_data_of_a_run_is_json_and_harmless_in_a_script(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL, name=EVIL + "\u2028\u202e")
    data = data_of(run, make_run(tmp_path / "s", FINAL))
    text = as_script(data)
    assert "<" not in text and ">" not in text and text.isascii()
    assert json.loads(text) == json.loads(json.dumps(data))
    assert len(data["verdict"]) == 2


def test_packing() -> None:
    for kind, values in (("u8", [0, 255]), ("u16", [0, 65535]), ("f16", [0.5, math.nan])):
        found = packed(torch.tensor([values]), kind)
        assert found["s"] == [1, 2]
        np.testing.assert_array_equal(unpacked(found), np.array([values]))
    for kind, value in (("u8", 256), ("u16", -1), ("f16", 1e6), ("u8", 0.5)):
        with pytest.raises(ValueError, match=f"{kind} can't hold"):
            packed(torch.tensor([value]), kind)


def _keep(run: Path, step: int, prompts: int = 2, fill: int = 7, pairs_hash: str = "pairs") -> None:
    seen = torch.ones(8, dtype=torch.bool)
    seen[2] = False
    weights = [torch.full((8, 3 + row), fill, dtype=torch.uint8) for row in range(prompts)]
    texts = [Prompt(row, [f"</script>{row}"] * (3 + row)) for row in range(prompts)]
    write_patterns(run, step, KeptPatterns(pairs_hash, texts, seen, weights))


def test_patterns_of_a_run_are_on_its_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    for step in (0, 10, 20):
        _keep(run, step, fill=step)
    [data] = data_of(run)["runs"]
    assert [len(tokens) for tokens in data["tokens"]] == [3, 4]
    for found in data["checkpoints"]:
        assert found["patterns"] is not None
        assert found["patterns"]["unseen"] == [2]
        assert (unpacked(found["patterns"]["weights"][1]) == found["step"]).all()


@pytest.mark.parametrize(
    ("room", "steps", "prompts"), [(10**6, [0, 10, 20], 2), (120, [0, 20], 2), (50, [0, 20], 1)]
)
def test_patterns_take_no_more_room_than_there_is(
    tmp_path: Path, room: int, steps: list[int], prompts: int
) -> None:
    run = make_run(tmp_path / "r", FINAL)
    for step in (0, 10, 20):
        _keep(run, step)
    tokens, found = shown_patterns(Run.read(run), room)
    assert (list(found), len(tokens)) == (steps, prompts)


def test_patterns_that_do_not_belong_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "r", FINAL)
    _keep(run, 0)
    _keep(run, 10, pairs_hash="other")
    patterns_path(run, 20).write_bytes(b"cut")
    tokens, found = shown_patterns(Run.read(run))
    assert (list(found), len(tokens)) == ([0], 2)
    assert "is of other pairs or heads" in caplog.text
    assert "is damaged" in caplog.text

"""Trajectories from records, whatever their order; what W&B is given, and when it fails."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.interventions.head_sets import parse_heads
from analysis.records.evaluations import write_evaluation
from analysis.records.record import Record
from analysis.records.record_files import read_records, record_dir, write_record
from analysis.records.run_file import RunFile
from analysis.records.secrets import redact
from analysis.records.stored import StoredTensors
from analysis.reporting.mirror import open_mirrors
from analysis.reporting.pictures import CELL, COLOURS, cohort_picture, head_map_picture
from analysis.reporting.present import present
from analysis.reporting.publish import Publisher
from analysis.reporting.rows import curve_heads, head_values
from analysis.reporting.tables import HEAD_TITLES, head_rows
from analysis.reporting.wandb_mirror import WandbMirror
from analysis.trajectories.run import Run
from analysis.trajectories.sensitivity import TAU_SHARES
from analysis.trajectories.trajectory import (
    Point,
    associations,
    curves,
    ever_in_circuit,
    run_level,
    trajectory,
    write_trajectory,
)
from tests.support.mirrors import FakeMirror
from tests.support.planted import GRAPH, N_HEADS, World, make_record
from tests.support.publishing import to_wandb

WORLD = World(4, changed=10, factor=100.0, noise=0.02)
BASE, MOVED = WORLD.scores(8)


def some_records(pattern: str = "bbmmbm") -> list[Record]:
    """Records at steps 0, 10, ...: `b` measures as the base, `m` as after the change."""
    again = {"b": BASE, "m": MOVED}
    return [make_record(10 * i, again[letter], 40) for i, letter in enumerate(pattern)]


def run_with(directory: Path, records: list[Record], kind: str = "sft") -> Path:
    RunFile("r", kind).write(directory)
    for record in records:
        write_record(directory, record, torch.zeros(8, 1))
    return directory


def settled(points: list[Point], name: str) -> list[int]:
    return [int(point.settled[name].sum()) for point in points]


def test_states_over_checkpoints() -> None:
    points = trajectory(some_records())
    new = points[2].change.called["emergent"]
    assert new.any()
    assert torch.equal(new, points[2].masks["emergent"])
    n = int(new.sum())
    assert [int(point.masks["emergent"].sum()) for point in points] == [0, 0, n, n, 0, n]
    assert [int(point.masks["transient"].sum()) for point in points] == [0, 0, 0, 0, n, 0]
    assert set(points[-1].first[new].tolist()) == {20}
    assert (points[-1].first[~new] == -1).all()
    assert points[0].turn is None
    turnover = [point.turn.turnover.value for point in points[1:]]
    assert turnover[0] == turnover[2] == 0 < turnover[1] == turnover[3]


def test_heads_are_called_at_one_level_of_the_run(tmp_path: Path) -> None:
    """At all checkpoints alike, and by name as the report has them."""
    records = some_records("bbm")
    points = trajectory(records)
    assert {point.change.level for point in points} == {run_level(records)}
    run = run_with(tmp_path / "r", records)
    named = parse_heads(f"{run}@last:called_emergent", GRAPH)
    called = points[-1].change.called["emergent"]
    assert {GRAPH.heads.index(head) for head in named} == set(called.nonzero().flatten().tolist())


def test_hysteresis_waits_for_a_second_checkpoint_and_then_holds() -> None:
    points = trajectory(some_records("bmbmmbmbb"))
    n = int(points[1].change.called["emergent"].sum())
    #                                   b  m  b  m  m  b  m  b  b
    assert settled(points, "emergent") == [0, 0, 0, 0, n, n, n, n, 0]
    assert settled(points, "transient") == [0] * 8 + [n]
    assert set(points[-1].first_settled[points[1].change.called["emergent"]].tolist()) == {40}
    eager = trajectory(some_records("bmb"), hysteresis=1)
    assert settled(eager, "emergent") == [0, n, 0]
    with pytest.raises(ValueError, match="hysteresis must be 1 checkpoint or more, not 0"):
        trajectory(some_records("b"), hysteresis=0)


def test_sensitivity_sweeps_sizes_and_tau() -> None:
    point = trajectory(some_records("bm"))[1]
    by_size = [s for s in point.sensitivity if s.by == "top_n"]
    assert [round(s.value / point.record.selection["top_n"], 2) for s in by_size] == [
        0.25,
        0.5,
        1.0,
        2.0,
        4.0,
    ]
    same = by_size[2]
    assert same.counts["emergent"].value == point.counts["emergent"].value
    assert same.called["emergent"] == int(point.change.called["emergent"].sum())
    by_tau = [s for s in point.sensitivity if s.by == "tau"]
    assert [s.value for s in by_tau] == pytest.approx([2.0 * share for share in TAU_SHARES])
    inside = [s.counts["in_circuit"].value for s in by_tau]
    assert inside == sorted(inside, reverse=True)  # a larger tau leaves fewer heads


def test_trajectory_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    records = some_records()
    text = []
    for seed in range(3):
        run = tmp_path / str(seed)
        random.Random(seed).shuffle(records)
        for record in records:
            write_record(run, record, torch.zeros(8, 1))
        write_record(run, records[0], torch.zeros(8, 1))  # a repeated one
        write_trajectory(run / "trajectory.json", trajectory(read_records(run)))
        text.append((run / "trajectory.json").read_text())
    assert text[0] == text[1] == text[2]
    content = json.loads(text[0])["checkpoints"]
    assert [point["step"] for point in content] == [0, 10, 20, 30, 40, 50]
    assert content[0]["origin"]["model"]["weights"] == "w0"


def test_what_is_known_is_not_computed_again(tmp_path: Path, monkeypatch: Any) -> None:
    from analysis.trajectories import trajectory as module

    run = run_with(tmp_path / "r", some_records("bm"))
    known: module.Known = {}
    first = Run.read(run, known).points
    calls = []
    for name, original in (("compare", module.compare), ("turn", module.turn)):
        counted = partial(lambda original, *a: calls.append(1) or original(*a), original)
        monkeypatch.setattr(module, name, counted)
    again = Run.read(run, known).points
    assert not calls
    assert again[1].change is first[1].change
    write_record(run, make_record(20, BASE, 40), torch.zeros(8, 1))
    assert len(Run.read(run, known).points) == 3
    assert len(calls) == 2  # the new one against the base and against the one before
    write_record(run, make_record(0, MOVED, 40), torch.zeros(8, 1))  # another base: all anew
    changed = Run.read(run, known).points
    assert changed[1].change.counts["emergent"].value == 0


def test_without_the_base_there_is_no_trajectory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no record of step 0, the base"):
        trajectory(some_records("bm")[1:])
    run = run_with(tmp_path / "r", some_records("bm")[1:])
    assert Run.read(run).points == []


def test_records_of_other_pairs_are_refused(tmp_path: Path) -> None:
    other = make_record(10, MOVED, 40, pairs_hash="other")
    run = run_with(tmp_path / "r", [some_records("b")[0], other])
    with pytest.raises(ValueError, match="steps 0 and 10 differ in pairs_hash .h and other."):
        Run.read(run)


def test_curves_and_their_association_with_the_signal() -> None:
    points = trajectory(some_records("bmbmbmbm"))
    found = curves(points)
    assert len(found["emergent"]) == 8
    assert len(found["turnover"]) == len(found["excess_turnover"]) == 7
    reward = [None, *(float(i % 2 == 0) for i in range(7))]
    got = associations(points, reward)
    assert got["emergent"].rho.value == pytest.approx(1)
    assert got["emergent"].n == 7
    assert got["emergent"].p_value >= 1 / 7
    assert associations(points[:1], [None]) == {}


def test_head_rows_say_where_each_head_came_from() -> None:
    points = trajectory(some_records())
    rows = head_rows(points)
    assert len(rows) == int(ever_in_circuit(points).sum())
    assert all(len(row) == len(HEAD_TITLES) for row in rows)
    emergent = [row for row in rows if row[1] == "emergent"]
    at = HEAD_TITLES.index("first at step")
    assert {row[at] for row in emergent} == {"20"}
    assert rows[: len(emergent)] == emergent
    assert {row[at] for row in rows if row[1] == "retained"} == {"0"}


def test_logged_names() -> None:
    points = trajectory(some_records("bm"))
    values = head_values(points)
    point = points[-1]
    n = int(point.masks["emergent"].sum())
    assert values["heads/emergent"] == values["heads/emergent/called"] == n
    assert values["heads/emergent/lo"] <= n <= values["heads/emergent/hi"]
    assert values["circuit/faithfulness"] == pytest.approx(0.8)
    for name in ("retained", "pruned", "transient", "turnover", "excess_turnover", "jaccard"):
        assert {f"heads/{name}", f"heads/{name}/lo", f"heads/{name}/hi"} <= values.keys()
    assert "heads/turnover" not in head_values(points[:1])
    curves_shown = [name for name in values if name.startswith("head/L")]
    assert len(curves_shown) == int(ever_in_circuit(points).sum()) == values["head/curves"]
    pruned = int(point.masks["pruned"].nonzero()[0])
    assert values[f"head/L{pruned // 8:02}H{pruned % 8:02}"] == 0


def test_head_curves_are_capped_and_stay() -> None:
    points = trajectory(some_records())
    few = curve_heads(points[:1], 5)
    assert len(few) == 5
    assert curve_heads(points, 5) == few
    everything = curve_heads(points, N_HEADS)
    assert everything[: len(curve_heads(points[:2], N_HEADS))] == curve_heads(points[:2], N_HEADS)
    values = head_values(points, 5)
    assert (values["head/curves"], values["head/curves_cap"]) == (5, 5)


def test_only_what_is_missing_is_published(tmp_path: Path) -> None:
    records = some_records("bmm")
    run = run_with(tmp_path / "r", [records[0], records[2]])
    fake = FakeMirror(run)
    publisher = to_wandb(run, fake)
    write_evaluation(run, 0, {"pass_at_1": 0.5, "low": 0.4, "high": 0.6})
    assert publisher.update(Run.read(run)) == [0, 0, 20]
    assert publisher.update(Run.read(run)) == []
    write_record(run, records[1], torch.zeros(8, 1))  # a late one
    assert publisher.update(Run.read(run)) == [10]
    assert fake.rows[-1]["heads/step"] == 10
    write_record(run, make_record(20, BASE, 40), torch.zeros(8, 1))  # one measured again
    assert publisher.finish() == []
    other = FakeMirror(run)
    again = to_wandb(run, other)  # in another process
    assert again.update(Run.read(run)) == [20]
    assert other.rows[-1]["heads/emergent"] == 0
    rows = fake.rows + other.rows
    assert [row["heads/step"] for row in rows] == [0, 0, 20, 10, 20]
    assert sum("eval/held_out/pass@1" in row for row in rows) == 1
    for row in rows:
        pictures = {"heads/map", "heads/cohorts", "heads/table"}
        assert pictures <= row.keys() or "eval/held_out/pass@1" in row
    again.finish()
    (run / "wandb-published.json").write_text("{")  # damaged: W&B's own files count
    assert to_wandb(run, FakeMirror(run)).update(Run.read(run)) == []


def test_scores_of_benchmarks_are_published(tmp_path: Path) -> None:
    """Each task has its own curves, at the checkpoint's step; one measured again goes again."""
    run = run_with(tmp_path / "r", some_records("b"))
    fake = FakeMirror(run)
    publisher = to_wandb(run, fake)
    publisher.update(Run.read(run))
    write_evaluation(run, 20, {"pass_at_1": 0.5, "low": 0.4, "high": 0.6}, "math500")
    write_evaluation(run, 20, {"pass_at_1": 0.1, "low": 0.0, "high": 0.2}, "aime24-think-off")
    assert publisher.update(Run.read(run)) == [20, 20]
    last = [{k: v for k, v in row.items() if k != "headlab/row"} for row in fake.rows[-2:]]
    assert last == [
        {
            "heads/step": 20,
            **{
                f"eval/aime24-think-off/pass@1{end}": value
                for end, value in (("", 0.1), ("/lo", 0.0), ("/hi", 0.2))
            },
        },
        {
            "heads/step": 20,
            **{
                f"eval/math500/pass@1{end}": value
                for end, value in (("", 0.5), ("/lo", 0.4), ("/hi", 0.6))
            },
        },
    ]
    assert publisher.update(Run.read(run)) == []
    write_evaluation(run, 20, {"pass_at_1": 0.6, "low": 0.5, "high": 0.7}, "math500")
    assert publisher.update(Run.read(run)) == [20]
    assert fake.rows[-1]["eval/math500/pass@1"] == 0.6


def test_an_uploaded_offline_run_is_not_logged_again(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Online: what `wandb sync` has uploaded is there, and only the rest is logged."""
    from analysis.commands import run as command
    from analysis.reporting import wandb_mirror

    records = some_records("bmm")
    run = run_with(tmp_path / "r", records[:2])
    offline = FakeMirror(run)
    publisher = to_wandb(run, offline)
    publisher.update(Run.read(run))
    publisher.finish()
    (offline.files / "run-id.wandb.synced").touch()
    write_record(run, records[2], torch.zeros(8, 1))
    fake = FakeMirror(run, "online", server=2)
    monkeypatch.setattr(WandbMirror, "begin", lambda *a: fake)
    monkeypatch.setattr(wandb_mirror, "silent_server", lambda: None)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    command("publish", [f"run={run}"])
    command("publish", [f"run={run}"])
    assert [row["heads/step"] for row in fake.rows] == [20]
    assert capsys.readouterr().out.endswith("nothing is missing\n")


def test_a_server_that_is_away_or_goes_is_said(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """By publish, which claims nothing that the server has not said; and then it is completed."""
    from analysis.commands import run as command
    from analysis.reporting import wandb_mirror

    run = run_with(tmp_path / "r", some_records("bmm"))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(wandb_mirror, "silent_server", lambda: "nobody there")
    with pytest.raises(SystemExit):
        command("publish", [f"run={run}"])
    assert "can't be reached: nobody there" in capsys.readouterr().err
    sessions = [FakeMirror(run, "online", whole=False), FakeMirror(run, "online", server=1)]
    monkeypatch.setattr(WandbMirror, "begin", lambda *a: sessions[0])
    monkeypatch.setattr(wandb_mirror, "silent_server", lambda: None)
    with pytest.raises(SystemExit):
        command("publish", [f"run={run}"])
    assert "may not have 3 of 3 rows" in capsys.readouterr().err
    monkeypatch.setattr(WandbMirror, "begin", lambda *a: sessions[1])
    command("publish", [f"run={run}"])
    assert "logged 2 rows, steps 10 to 20" in capsys.readouterr().out


def test_a_wandb_that_always_fails_stops_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no W&B today")

    monkeypatch.setattr(WandbMirror, "begin", broken)
    RunFile("x", "track").write(tmp_path)
    assert Publisher.start(tmp_path, open_mirrors(logger="wandb", mode="offline")) is None
    run = run_with(tmp_path / "r", some_records("bm"))
    failing = to_wandb(run, FakeMirror(run))
    monkeypatch.setattr(failing.mirrors[0], "log", broken)
    monkeypatch.setattr(failing.mirrors[0], "finish", broken)
    present(run, failing)
    failing.conclude()
    assert (run / "trajectory.json").exists()
    assert (run / "report.html").exists()
    assert not (run / "wandb-published.json").exists()
    later = to_wandb(run, FakeMirror(run))  # it works again: everything is made up
    assert later.update(Run.read(run)) == [0, 10]


def test_a_broken_record_costs_that_record_only(tmp_path: Path, caplog: Any) -> None:
    run = run_with(tmp_path / "r", some_records("bm"))
    next(record_dir(run, 10).glob("heads-*")).unlink()
    present(run)
    assert "which is missing; track this step again" in caplog.text
    assert (run / "report.html").exists()
    (run / "run.json").write_text("{")
    present(run)
    assert "its records are safe" in caplog.text


def test_pictures_show_states() -> None:
    points = trajectory(some_records("bm"))
    picture = head_map_picture(points[-1])
    assert picture.shape == (GRAPH.n_layers * CELL, GRAPH.n_heads * CELL, 3)
    for state in ("emergent", "retained", "pruned"):
        layer, head = divmod(int(points[-1].masks[state].nonzero()[0]), GRAPH.n_heads)
        middle = picture[(GRAPH.n_layers - 1 - layer) * CELL + CELL // 2, head * CELL + CELL // 2]
        assert tuple(middle) == COLOURS[state]
    stacked = cohort_picture(points)
    assert not np.array_equal(stacked[:, CELL // 2], stacked[:, CELL + CELL // 2])


def test_secrets_are_redacted() -> None:
    config = {"hub_token": "abc", "tokenizer": "t", "a": [{"api_key": "k"}], "key": None}
    masked = {"hub_token": "<redacted>", "tokenizer": "t", "a": [{"api_key": "<redacted>"}]}
    assert redact(config) == {**masked, "key": None}


def test_tables_of_one_record_are_in_memory_at_a_time(tmp_path: Path) -> None:
    """Of the records behind a trajectory nothing is kept but what a checkpoint shows."""
    run = run_with(tmp_path / "r", some_records("bmbmbm"))
    points = Run.read(run).points
    tables = [id(value) for point in points for value in vars(point.record).values()]
    assert len(tables) == len(points) * len(vars(points[0].record))
    for point in points:
        held = vars(point.record)
        assert not {"circuit", "mean", "resampled"} & set(held)
        sizes = [x.untyped_storage().nbytes() for x in held.values() if isinstance(x, torch.Tensor)]
        sizes += [
            value.untyped_storage().nbytes()
            for change in (point.change,)
            for value in (change.effect, *change.masks.values(), *change.called.values())
        ]
        assert max(sizes) <= 8 * N_HEADS
    assert torch.equal(
        points[1].record.resampled.strength, some_records("bm")[1].resampled.strength
    )


def test_a_set_at_one_step_reads_two_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with(tmp_path / "r", some_records("bmbmb"))
    wanted = Run.read(run).points[3]
    opened = []
    check = StoredTensors.check

    def counted(self: StoredTensors, shapes: Any) -> None:
        opened.append(self.path.parent.name)
        check(self, shapes)

    monkeypatch.setattr(StoredTensors, "check", counted)
    found = parse_heads(f"{run}@30:emergent", GRAPH)
    assert opened == ["step-000000", "step-000030"]
    assert {f"L{layer}H{head}" for layer, head in found} == set(
        wanted.names(wanted.masks["emergent"])
    )

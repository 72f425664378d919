"""Files are written whole or not at all, and JSON is JSON."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from analysis.circuits.circuit import Circuit
from analysis.circuits.graph_files import write_graph
from analysis.files import atomic_write, to_json, write_json
from analysis.models.graph import Graph
from analysis.records.evaluations import read_evaluations, write_evaluation
from analysis.records.record_files import read_record
from analysis.records.training_log import append_metrics, read_metrics
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import write_trajectory
from tests.support.planted_runs import FINAL, SCORE, configure, make_run, plant, report_of


def test_atomic_write_keeps_the_old_file_on_error(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def strict(text: str) -> object:
    """JSON as it is defined: no NaN and no infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_not_finite_is_null(tmp_path):
    value = {
        "a": [1.5, math.nan, (math.inf, {"b": -math.inf})],
        "c": np.float64("nan"),
        1: None,
        "d": True,
    }
    wanted = {"a": [1.5, None, [None, {"b": None}]], "c": None, "1": None, "d": True}
    assert strict(to_json(value)) == wanted
    write_json(tmp_path / "x.json", value)
    assert strict((tmp_path / "x.json").read_text()) == wanted


def test_what_is_finite_is_written_as_ever(tmp_path):
    value = {"x": [0.1, 1e-17, -0.0, 3, 2**70, "ä", None, False], "y": {"z": (1, 2.5)}, "e": {}}
    write_json(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_text() == json.dumps(
        value, indent=1, ensure_ascii=False
    ) + "\n"


def test_every_file_of_a_run_is_json(tmp_path):
    """A metric that does not change, a loss that diverged, a score without an interval."""
    run = configure(tmp_path / "r")
    plant(run, 0, FINAL, completeness_gap=math.inf)
    plant(run, 10, FINAL, completeness_gap=math.nan, evaluation=torch.zeros(3, 6))
    append_metrics(run, 5, {"loss": math.nan, "grad_norm": math.inf})
    write_evaluation(run, 10, {"pass_at_1": 0.5, "low": math.nan, "high": math.nan, **SCORE})
    found = Run.read(run)
    write_trajectory(run / "trajectory.json", found.points)
    for path in run.rglob("*.json"):
        strict(path.read_text())
    for line in (run / "metrics.jsonl").read_text().splitlines():
        strict(line)
    # and read back, null is a number that is not there
    assert math.isnan(read_record(run, 0).completeness_gap)
    assert math.isnan(read_metrics(run)[5]["loss"])
    assert read_evaluations(run)[10]["low"] is None
    assert math.isnan(found.rows[1].signal)
    text = report_of(run)
    assert "10 undefined 50.0 " in text
    assert not re.search(r"\bnan\b", text)


def test_files_of_earlier_versions_with_nan_are_read(tmp_path):
    run = make_run(tmp_path / "r", FINAL)
    path = run / "heads" / "step-000010" / "record.json"
    path.write_text(
        path.read_text().replace('"completeness_gap": 0.01', '"completeness_gap": Infinity')
    )
    with open(run / "metrics.jsonl", "a") as lines:
        lines.write('{"step": 21, "loss": NaN}\n')
    assert math.isinf(read_record(run, 10).completeness_gap)
    assert math.isnan(read_metrics(run)[21]["loss"])


def test_a_graph_file_is_json(tmp_path):
    graph = Graph(1, 1, 1)
    scores = torch.full(graph.edge_mask.shape, math.nan)
    write_graph(tmp_path / "g.json", Circuit(graph, torch.ones(graph.n_edges).bool()), scores, 8)
    strict((tmp_path / "g.json").read_text())

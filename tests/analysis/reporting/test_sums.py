"""Sums of edge scores are refused where the scores do not add up; what rests on order is not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.attribution.adding_up import adds_up
from analysis.comparison.pairs import compare_subjects, profile
from analysis.comparison.subjects import read_subject
from analysis.reporting.figures.head_map import head_map_content
from analysis.reporting.rows import head_values, map_rows
from analysis.reporting.sums import sums_note
from analysis.reporting.tables import format_table, head_rows, head_titles
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import associations
from tests.support.planted_runs import BASE, FINAL, GRAPH, make_run, plant, report_of

SETTINGS = {"method": "EAP-IG-inputs", "ig_steps": 6, "resamples": 200, "seed": 7}


def broken(path: Path, gap: float) -> Run:
    """A run whose last scores miss a part of the metric's change."""
    run = make_run(path, FINAL)
    plant(run, 0, BASE, settings=SETTINGS)
    plant(run, 10, [*BASE, *FINAL[-1:]], settings=SETTINGS)
    plant(run, 20, FINAL, settings=SETTINGS, completeness_gap=gap)
    return Run.read(run)


@pytest.mark.parametrize(("gap", "right"), [(0.1, True), (0.11, False), (math.inf, False)])
def test_the_rule(gap: float, right: bool) -> None:
    assert adds_up(gap) is right
    assert not adds_up(math.nan)


def test_sums_are_left_out_with_one_line_and_heads_are_called_as_ever(tmp_path: Path) -> None:
    whole, lacking = broken(tmp_path / "whole", 0.09), broken(tmp_path / "lacking", 0.41)
    line = (
        "are left out: at step 20 the scores miss 41% of the metric's change (completeness gap; "
        "at most 10%); track again with more points than tracking.ig_steps=6."
    )
    titles = head_titles(GRAPH)
    sums = [titles.index(name) for name in ("importance: base", "effect E")]
    final = sums[0] + 1
    for run, is_whole in ((whole, True), (lacking, False)):
        last, text = run.points[-1], " ".join(format_table(run).split())
        assert (line in text) is not is_whole
        assert (line in report_of(run.path).replace("&#39;", "'")) is not is_whole
        cells = head_rows(run.points)
        assert all((row[final] == "-") is not is_whole for row in cells)
        assert all((row[sums[1]] == "-") is not is_whole for row in cells)
        assert all(row[sums[0]] != "-" for row in cells)  # of the base, whose scores add up
        values = head_values(run.points)
        assert any(name.startswith("head/L") for name in values) is is_whole
        assert ("heads/overlap" in values) is is_whole
        assert all((row[3] is None) is not is_whole for row in map_rows(last))
        [*_, cells_shown] = [t for t in head_map_content(run)["data"] if t["type"] == "heatmap"]
        assert (cells_shown["z"][0][0] is None) is not is_whole
        assert ("overlap" in associations(run.points, [3.0, 2.0, 1.0])) is True
    for name in ("emergent", "pruned"):
        one, two = (run.points[-1].change.called[name] for run in (whole, lacking))
        assert torch.equal(one, two)
    assert [row[0] for row in head_rows(whole.points)] == [
        row[0] for row in head_rows(lacking.points)
    ]


def test_comparisons_leave_them_out_as_well(tmp_path: Path) -> None:
    run = broken(tmp_path / "r", 0.41)
    a, b = (read_subject(name, f"{run.path}@{step}") for name, step in (("a", 10), ("b", 20)))
    found = compare_subjects(a, b).heads
    assert "weighted overlap" not in found.numbers and "jaccard" in found.numbers
    assert found.importance[0].isfinite().all() and found.importance[1].isnan().all()
    assert found.effect.isnan().all()
    assert all(math.isnan(each.value) for each in profile(b).importance)


def test_the_mend_is_that_of_the_method(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    plant(run, 20, FINAL, completeness_gap=0.6)
    records = [point.record for point in Run.read(run).points]
    assert "scores of EAP need not add up" in sums_note(records)
    assert sums_note(records[:2]) == ""
    auto = {"method": "EAP-IG-inputs", "ig_steps": "auto", "resamples": 200, "seed": 7}
    for settings, points, mend in (
        (auto, 9.0, "track again with a smaller tracking.gap"),
        (auto, 58.0, "auto takes at most 60; track again with a number"),
        (auto | {"method": "CEAP", "ig_steps": 4}, None, "more points than tracking.ig_steps=4"),
    ):
        assert mend in sums_note([replace(records[2], settings=settings, points=points)])

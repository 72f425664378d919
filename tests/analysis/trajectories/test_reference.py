"""A run against a second model: how like its heads become, and when that can't be said."""

from __future__ import annotations

import pytest

from analysis.models.graph import Graph
from analysis.records.run_file import RunFile
from analysis.reporting.figures.trajectory import trajectory_chart
from analysis.trajectories.run import Run
from tests.support.planted_runs import BASE, FINAL, make_run, plant, report_of


@pytest.fixture
def distilled(tmp_path):
    """A run from BASE to FINAL, whose teacher has FINAL."""
    run = make_run(tmp_path / "r", FINAL)
    (run / "reference").mkdir()
    RunFile("teacher", "reference").write(run / "reference")
    plant(run / "reference", 0, FINAL)
    return run


def test_the_likeness_rises_to_one(distilled):
    reference = Run.read(distilled).reference
    assert [round(e.value, 3) for e in reference.jaccard] == [0.25, 0.5, 1.0]
    assert [e.value for e in reference.overlap][-1] == pytest.approx(1)
    assert reference.ceiling == [1, 1, 1]  # all pairs agree in these records
    assert all(e.low <= e.value <= e.high for e in reference.jaccard)


def test_the_report_says_and_draws_it(distilled):
    said = (
        "Jaccard index with the heads of the reference teacher: 0.25 [0.25, 0.25] at the base, 1.00"
    )
    assert said in report_of(distilled)
    titles = [axis.title.text for axis in trajectory_chart(Run.read(distilled)).select_yaxes()]
    assert "likeness to<br>reference" in titles


def test_a_reference_of_another_shape_is_not_compared(distilled):
    plant(distilled / "reference", 0, BASE, graph=Graph(3, 4, 2))
    assert Run.read(distilled).reference.jaccard == []
    said = "it has 3 layers with 4 heads, and the trained model 2 layers with 4 heads"
    assert f"The reference teacher is not compared head by head: {said}" in report_of(distilled)


def test_a_reference_on_other_pairs_is_not_compared(distilled):
    plant(distilled / "reference", 0, BASE, pairs_hash="others")
    assert Run.read(distilled).reference.unlike == "it was measured on other pairs"


def test_a_run_without_one_has_none(tmp_path):
    run = make_run(tmp_path / "r", FINAL)
    assert Run.read(run).reference is None
    assert "reference" not in report_of(run)


def test_a_damaged_reference_costs_nothing_else(distilled, caplog):
    (distilled / "reference/heads/step-000000/record.json").write_text("{")
    run = Run.read(distilled)
    assert run.reference is None
    assert len(run.points) == 3
    assert "left out" in caplog.text

"""The charts of a run, from records written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.reporting.figures.head_map import head_map
from analysis.reporting.figures.sensitivity import sensitivity_chart
from analysis.reporting.figures.trajectory import (
    cohort_chart,
    faithfulness_chart,
    trajectory_chart,
)
from analysis.trajectories.run import Run
from tests.support.planted_runs import (
    BASE,
    FINAL,
    PAIRS,
    make_run,
    plant,
)


def lines_of(figure: Any) -> dict[str, Any]:
    """Its lines and marks by name, without the bands."""
    return {trace.name: trace for trace in figure.data if trace.fill != "toself"}


def test_trajectory_holds_raw_settled_turnover_and_signal(tmp_path: Path) -> None:
    curves = lines_of(trajectory_chart(Run.read(make_run(tmp_path / "r", FINAL))))
    assert list(curves["emergent"].y) == [0, 1, 2]
    assert list(curves["emergent, settled"].y) == [0, 0, 1]
    assert curves["emergent, settled"].line.dash == "dot"
    assert curves["retained"].line.dash == "dash"
    assert list(curves["excess turnover"].x) == [10, 20]
    assert list(curves["excess turnover"].y) == pytest.approx([1 / 3, 1 / 2])
    assert list(curves["Jaccard"].y) == pytest.approx([1, 2 / 3, 1 / 4])
    assert list(curves["as logged"].y) == [3.0, 2.0, 1.0, 0.5]
    assert list(curves["mean"].y) == [2.5, 0.75]
    assert list(curves["held-out"].customdata[0]) == [0.3, 0.5]


def test_cohorts_are_stacked_by_first_emergence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    plant(run, 30, [*BASE, "a0.h2"])
    bars = {t.name: (list(t.y), list(t.customdata or [])) for t in cohort_chart(Run.read(run)).data}
    assert bars["10"] == ([0, 1, 1, 0], [0, 0, 1, 0])
    assert bars["20"] == ([0, 0, 1, 1], [0, 0, 0, 1])
    assert bars["settled"][0] == [0, 0, 1, 2]  # a head settled once counts until gone for two
    assert set(bars) == {"10", "20", "settled"}


def test_map_holds_every_checkpoint_and_marks_base_and_final(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    plant(run, 20, FINAL, rare=("a1.h2",))
    figure = head_map(Run.read(run))
    steps = figure.layout.sliders[0].steps
    assert [step.label for step in steps] == ["0", "10", "20"]

    def shown(step: int) -> dict[str, Any]:
        kept = zip(figure.data, steps[step].args[1], strict=True)
        return {trace.name: trace for trace, visible in kept if visible}

    def places(trace: Any) -> list[tuple[int, int]]:
        return list(zip(trace.y, trace.x, strict=True))

    assert places(shown(1)["emergent, called"]) == [(1, 3)]  # layer 1, head 3
    assert places(shown(2)["emergent"]) == [(1, 2)]
    assert places(shown(2)["pruned, called"]) == [(1, 1)]
    for step in range(3):
        assert len(shown(step)["final circuit"].x) == 1 + 4 * 6
        assert len(shown(step)["base's circuit"].x) == 1 + 2 * 6
        assert shown(step)["base's circuit"].line.color == "#d62f2f"
    hover = shown(2)[None].text[1][3]
    for part in ("<b>L1H3</b> emergent, called", "inclusion 0.00 → 1.00, p = ", "E = 1.00 ["):
        assert part in hover


def test_sensitivity_marks_the_setting_of_the_run(tmp_path: Path) -> None:
    figure = sensitivity_chart(Run.read(make_run(tmp_path / "r", FINAL)))
    sweeps = [trace for trace in figure.data if trace.name == "emergent"]
    assert [list(trace.x) for trace in sweeps] == [
        [5, 10, 20, 40, 80],
        pytest.approx([0.002, 0.006, 0.02, 0.06, 0.2]),
    ]
    assert list(sweeps[1].y) == [2] * 5
    assert list(sweeps[1].error_y.array) == [0] * 5
    called = [trace for trace in figure.data if trace.name == "pruned, called"]
    assert list(called[1].y) == [1] * 5
    assert {line.x0 for line in figure.layout.shapes} == {20}  # no tau in this run


def test_faithfulness_without_a_value_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    plant(run, 10, FINAL, evaluation=torch.zeros(3, PAIRS))
    curves = lines_of(faithfulness_chart(Run.read(run)))
    assert list(curves["faithfulness"].x) == [0, 20]
    assert list(curves["faithfulness"].y) == pytest.approx([0.8, 0.8])
    assert list(curves["edges"].y) == [4, 6, 6]

"""The checkpoint table and the head table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from analysis.reporting.figures.trajectory import trajectory_content
from analysis.reporting.rows import head_values
from analysis.reporting.tables import format_table, head_cells
from analysis.trajectories.run import Run
from tests.support.planted_runs import (
    BASE,
    FINAL,
    PAIRS,
    make_run,
    plant,
    report_of,
)


def test_table_is_plain_and_says_what_its_marks_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    lines = format_table(Run.read(run)).splitlines()
    cells = ["20", "0.750", "41.2 [30, 50]", "3 [3-3]", "2 [2-2]", "1 [1-1]", "+2 -1"]
    assert re.split(r"\s\s+", lines[5].strip()) == cells
    legend = " ".join(lines[7:])
    assert "95 % bootstrap interval" in legend
    assert "two resamples of step 0 give 0.0 emergent (97.5 % point 0)" in legend
    assert all(line.isascii() and line.isprintable() and len(line) <= 80 for line in lines)


def test_head_table_tells_state_and_first_checkpoint(tmp_path: Path) -> None:
    run = Run.read(make_run(tmp_path / "r", FINAL))
    assert [cells[:6] for cells in head_cells(run)] == [
        ["L0H2", "emergent", "-", "20", "0.00", "1.00"],
        ["L1H3", "emergent", "emergent", "10", "0.00", "1.00"],
        ["L0H0", "retained", "-", "0", "1.00", "1.00"],
        ["L1H1", "pruned", "-", "0", "1.00", "0.00"],
    ]
    plant(tmp_path / "r", 30, BASE)
    run = Run.read(tmp_path / "r")
    assert [cells[1] for cells in head_cells(run)] == ["retained", "retained"] + ["transient"] * 2


def test_kl_from_the_base_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    """In the terminal, the loggers' rows, the chart and the page; nothing where there is none."""
    run = make_run(tmp_path / "r", FINAL)
    assert "KL" not in format_table(Run.read(run))
    plant(run, 0, BASE, kl=torch.zeros(PAIRS))
    plant(run, 20, FINAL, kl=torch.arange(PAIRS) / 10)
    found = Run.read(run)
    low, high = 0.117, 0.383
    cells = [re.split(r"\s\s+", line.strip()) for line in format_table(found).splitlines()]
    shown = dict(row for row in cells if len(row) == 2)
    assert (shown["0"], shown["10"]) == ("0.000 [0.000, 0.000]", "-")
    assert re.fullmatch(r"0\.250 \[0\.1\d\d, 0\.3\d\d\]", shown["20"])
    values = head_values(found.points)
    assert values["circuit/kl_from_base"] == pytest.approx(0.25)
    assert values["circuit/kl_from_base/lo"] == pytest.approx(low, abs=0.05)
    assert values["circuit/kl_from_base/hi"] == pytest.approx(high, abs=0.05)
    [curve] = [
        t
        for t in trajectory_content(found)["data"]
        if t["name"].startswith("KL") and "customdata" in t
    ]
    assert (curve["x"], curve["y"]) == ([0, 20], pytest.approx([0, 0.25]))
    assert "How far the model has moved" in report_of(run)

"""The checkpoint table and the head table."""

from __future__ import annotations

import re
from pathlib import Path

from analysis.reporting.tables import format_table, head_cells
from analysis.trajectories.run import Run
from tests.support.planted_runs import (
    BASE,
    FINAL,
    make_run,
    plant,
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

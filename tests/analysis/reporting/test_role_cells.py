"""Roles in the head table and the report."""

from __future__ import annotations

import math
from pathlib import Path

from analysis.heads.roles import (
    Score,
    head_roles,
)
from analysis.records.record_files import read_record
from analysis.reporting.report import write_report
from analysis.reporting.roles import TITLES, role_cell, role_cells
from analysis.reporting.tables import HEAD_TITLES, head_cells
from analysis.trajectories.run import Run
from tests.support.tracked import tracked
from train.recipes.tiny import build_tokenizer


def test_cells_read_well() -> None:
    score = Score([0.414, -1.2, math.nan], [0.38, -1.31, math.nan], [0.45, -0.9, math.nan], 3)
    cells = [role_cell(score, head) for head in range(3)]
    assert cells == ["0.41 [0.38, 0.45]", "-1.20 [-1.31, -0.90]", "-"]


def test_a_tracked_run_has_roles_in_its_table_and_report(tmp_path: Path, tiny_dir: Path) -> None:
    run = tmp_path / "run"
    model, pairs = tracked(run, tiny_dir)
    wanted = head_roles(model, pairs, build_tokenizer(), resamples=50)
    loaded = Run.read(run)
    cells = {line[0]: line for line in head_cells(loaded)}
    record = read_record(run, 0)
    assert record is not None
    inside = record.in_circuit.nonzero().flatten().tolist()
    assert len(inside) == len(cells)
    for head in inside:
        line = cells[wanted.heads[head]]
        assert line[-len(TITLES) :] == role_cells(wanted, head)
        assert len(line) == len(HEAD_TITLES)
    assert all("[" in line[HEAD_TITLES.index("to answer")] for line in cells.values())
    assert all(line[HEAD_TITLES.index("to think tag")] == "-" for line in cells.values())
    page = write_report([Run.read(run)], tmp_path / "report.html").read_text()
    assert "2506.19143" in page
    assert "to think tag 0, receiver kurtosis 6; receiver kurtosis over tokens" in page

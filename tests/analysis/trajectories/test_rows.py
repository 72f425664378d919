"""The rows of a run: records, signal and scores, joined by step."""

from __future__ import annotations

from pathlib import Path

from analysis.trajectories.run import Run
from tests.support.planted_runs import (
    FINAL,
    configure,
    make_run,
)


def test_rows_join_signal_score_and_states(tmp_path: Path) -> None:
    rows = Run.read(make_run(tmp_path / "r", FINAL)).rows
    assert [(row.step, row.signal) for row in rows] == [(0, None), (10, 2.5), (20, 0.75)]
    assert [row.evaluation is not None for row in rows] == [True, False, True]
    final = rows[-1].point
    assert final is not None
    counts = {name: count.value for name, count in final.counts.items()}
    assert counts == {"in_circuit": 3, "emergent": 2, "retained": 1, "pruned": 1, "transient": 0}
    assert Run.read(configure(tmp_path / "r", "grpo")).rows[1].signal == -2.5

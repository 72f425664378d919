"""The lines that a training logs."""

from __future__ import annotations

from analysis.records.training_log import append_metrics, read_metrics


def test_metrics_survive_a_cut_line_and_a_resume(tmp_path):
    append_metrics(tmp_path, 1, {"loss": 3.0})
    append_metrics(tmp_path, 2, {"loss": 2.0})
    with open(tmp_path / "metrics.jsonl", "a") as lines:
        lines.write('{"step": 3, "lo')
    append_metrics(tmp_path, 2, {"loss": 2.5})
    assert read_metrics(tmp_path) == {1: {"loss": 3.0}, 2: {"loss": 2.5}}

"""Counts of heads beside the paper's."""

from __future__ import annotations

from analysis.reporting import paper


def test_each_rate_of_grpo_has_its_row(compose, tmp_path):
    """The paper's one count stands beside both."""
    from analysis.records.run_file import RunFile
    from analysis.tracking.settings import TrackingSettings
    from analysis.tracking.tracker import HeadTracker
    from tests.support.models import random_pairs, tiny_model

    settings = TrackingSettings(ig_steps=1, resamples=5)
    tracker = HeadTracker(tmp_path, random_pairs(3, answers=False), settings)
    for step in (0, 1):
        tracker.track(tiny_model("qwen2", seed=step), step, show_progress=False)
    name = compose("grpo", "experiment=paper/openr1_lr2e-5").name
    RunFile(name, "grpo", "reward").write(tmp_path)
    rows, _ = paper.head_rows(paper.tracked_runs([tmp_path]))
    by_name = {row[0]: row for row in rows}
    assert by_name["GRPO OpenR1, lr 1e-6"][1:3] == ["19", "-"]
    assert by_name["GRPO OpenR1, lr 2e-5"][1] == "19"
    assert by_name["GRPO OpenR1, lr 2e-5"][2] not in ("-", "0")
    assert "does not say for which" in "\n".join(paper.HEAD_NOTES)

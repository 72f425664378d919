"""HeadTracking on a `transformers.Trainer`: what it leaves, and what it leaves alone."""

from __future__ import annotations

import json
from functools import partial

from analysis.records.checkpoints import find_model
from analysis.records.record import read_records
from analysis.records.run_file import RunFile
from analysis.records.training_log import read_metrics
from headlab import HeadTracking
from tests.support.hung import TRACKING, assert_left_alone, plain_trainer, write_pairs


def test_one_line_tracks_a_training_and_leaves_it_bit_identical(tiny_dir, tmp_path):
    tracking = HeadTracking(write_pairs(tmp_path / "pairs.jsonl"), **TRACKING)
    run = assert_left_alone(partial(plain_trainer, tiny_dir), tracking, tmp_path)
    records = read_records(run)
    assert [record.step for record in records] == [0, 2, 4]
    assert len({record.origin["model"]["weights"] for record in records}) == 3
    file = RunFile.read(run)
    assert (file.name, file.kind, file.signal) == ("tracked", "trainer", "loss")
    assert file.tracking["ig_steps"] == 2
    assert set(read_metrics(run)) == {1, 2, 3, 4}
    assert json.loads((run / "trajectory.json").read_text())
    assert (run / "report.html").stat().st_size > 100_000
    assert json.loads((run / "finished.json").read_text()) == {"step": 4}
    for step in (0, 4):
        named = find_model(f"{run}@{step}")
        model = named.load_tokenizer()
        assert len(model) > 200

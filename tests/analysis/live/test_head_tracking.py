"""HeadTracking on a `transformers.Trainer`: what it leaves, and what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import partial

import pytest

from analysis.live.keywords import tracking_of
from analysis.records.checkpoints import find_model
from analysis.records.record_files import read_records
from analysis.records.run_file import RunFile
from analysis.records.training_log import read_metrics
from analysis.tracking.settings import CircuitKeys
from headlab import HeadTracking
from tests.support.hung import TRACKING, assert_left_alone, plain_trainer, write_pairs


def test_keywords():
    with pytest.raises(TypeError, match="no keyword 'resample'; did you mean resamples"):
        HeadTracking("p", resample=3)
    with pytest.raises(TypeError, match="no keyword 'run_dirs'; did you mean run_dir"):
        HeadTracking("p", run_dirs="x")
    wrong = [
        ({"where": "sidecars"}, "where is 'sidecars'; choose one of: inline"),
        ({"on_error": "stop"}, "on_error is 'stop'; choose one of"),
        ({"schedule": "every"}, "schedule is 'every'; choose"),
        ({"schedule": [-1]}, "schedule is"),
        ({"resamples": 1}, "resamples must be at least 2"),
        ({"resamples": "10"}, "Expected `int`"),
        ({"ig_steps": 2.5}, "ig_steps is 2.5; give a whole number"),
        ({"method": "EAPIG"}, "EAPIG"),
        ({"fraction": 0.1, "top_n": 5}, "exactly one size"),
        ({"fraction": "most"}, "fraction must lie in (0, 1] or be auto, not most"),
        ({"fdr": 1.0}, "fdr must lie in"),
        ({"budget": 0.5, "where": "sidecar"}, "budget is for tracking in the trainer"),
        ({"budget": 2.0}, "budget must lie in"),
        ({"run_dir": "x", "where": "checkpoint"}, "leave run_dir out"),
        ({"alerts": ["faithful<0.3"]}, "alerts: there is no value 'faithful'"),
        ({"webhook": "ftp://x"}, "the webhook of alerts is no http"),
        ({"logger": "wandbb"}, "logger: there is no 'wandbb'; did you mean wandb"),
    ]
    for keywords, message in wrong:
        with pytest.raises(ValueError, match="^HeadTracking: ") as error:
            HeadTracking("p", **keywords)
        assert message in str(error.value), keywords
        assert "tracking." not in str(error.value)
    assert HeadTracking("p", top_n=5).tracking.fraction is None
    defaults = HeadTracking("p").tracking
    assert all(
        getattr(defaults, f.name) == getattr(tracking_of({}, ()), f.name)
        for f in fields(CircuitKeys)
    )


def test_one_line_tracks_a_training_and_leaves_it_bit_identical(tiny_dir, tmp_path, capsys):
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
    tracking.show()
    assert "emergent" in capsys.readouterr().out  # where there is no notebook, the table
    for step in (0, 4):
        named = find_model(f"{run}@{step}")
        model = named.load_tokenizer()
        assert len(model) > 200

"""HeadTracking on TRL's trainers: each tracked, reported, and left alone to the last bit."""

from __future__ import annotations

import json
import warnings
from functools import partial

import pytest

from analysis.records.record_files import read_records
from analysis.records.run_file import RunFile
from analysis.reporting.present import write_pages
from headlab import HeadTracking
from tests.support.hung import TRACKING, assert_left_alone, write_pairs
from tests.support.hung_trl import trl_trainer

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def only_the_last_report(monkeypatch):
    """A report takes longer than such a training."""

    def write(run):
        if run.rows[-1].step == 4:
            write_pages(run)

    monkeypatch.setattr("analysis.live.adopted_run.write_pages", write)


TRAINERS = ("SFT", "GRPO", "DPO", "RLOO", "KTO", "Distillation", "ORPO")


@pytest.mark.parametrize("kind", TRAINERS)
def test_trainers_of_trl_are_tracked_and_left_alone(tiny_dir, tmp_path, kind):
    tracking = HeadTracking(write_pairs(tmp_path / "pairs.jsonl"), **TRACKING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental trainers
        run = assert_left_alone(partial(trl_trainer, kind, tiny_dir), tracking, tmp_path)
    records = read_records(run)
    assert [record.step for record in records] == [0, 2, 4]
    assert len({record.origin["model"]["weights"] for record in records}) == 3
    file = RunFile.read(run)
    assert file.kind == kind.lower()
    assert file.signal == ("reward" if kind in ("GRPO", "RLOO") else "loss")
    assert (run / "report.html").stat().st_size > 100_000


def test_a_reward_model_is_refused_before_the_first_step(tiny_dir, tmp_path):
    trainer = trl_trainer("Reward", tiny_dir, tmp_path / "r")
    trainer.add_callback(HeadTracking(write_pairs(tmp_path / "pairs.jsonl"), **TRACKING))
    with pytest.raises(ValueError, match="Qwen3ForSequenceClassification has no LM head") as error:
        trainer.train()
    assert "\n" not in str(error.value)
    assert trainer.state.global_step == 0
    assert not (tmp_path / "r" / "run.json").exists()


@pytest.mark.parametrize(
    ("kind", "about"),
    [
        ("DPO", "chosen against rejected answers' starts"),
        ("GRPO", "prompts with two styles of answer"),
    ],
)
def test_pairs_may_be_made_of_the_rows(tiny_dir, tmp_path, kind, about):
    run = assert_left_alone(
        partial(trl_trainer, kind, tiny_dir), HeadTracking("auto", **TRACKING), tmp_path
    )
    said = json.loads((run / "pairs.json").read_text())["about"]
    assert said == f"{about}, made of rows of the training data, which are trained on too"
    assert [record.step for record in read_records(run)] == [0, 2, 4]

"""A second model beside a training: measured once on its pairs, and refused with other tokens."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from analysis.records.record_files import read_record, record_dir
from analysis.trajectories.run import Run
from headlab import HeadTracking
from tests.support.hung import TRACKING, assert_left_alone, load, plain_trainer, write_pairs


@pytest.fixture
def teacher(tiny_dir):
    model = load(tiny_dir)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    return model


@pytest.mark.distributed
def test_a_teacher_is_measured_and_the_training_left_alone(tiny_dir, tmp_path, teacher):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    tracking = HeadTracking(pairs, reference=teacher, **TRACKING)
    run = assert_left_alone(partial(plain_trainer, tiny_dir), tracking, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert teacher.training == load(tiny_dir).training
    reference = Run.read(run).reference
    assert reference.name == "tiny"
    assert len(reference.jaccard) == 3
    ours, its = read_record(run, 0), read_record(run / "reference", 0)
    assert ours.origin["model"]["weights"] != its.origin["model"]["weights"]
    assert reference.jaccard[0].value == pytest.approx(
        float((ours.in_circuit & its.in_circuit).sum() / (ours.in_circuit | its.in_circuit).sum())
    )


@pytest.mark.distributed
def test_it_is_measured_again_only_where_it_changed(tiny_dir, tmp_path, teacher):
    pairs, run = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "r"
    record = record_dir(run / "reference", 0) / "record.json"

    def train(resume):
        trainer = plain_trainer(tiny_dir, run, max_steps=2, save_steps=1)
        trainer.add_callback(HeadTracking(pairs, reference=teacher, **TRACKING))
        trainer.train(resume_from_checkpoint=resume)
        return record.stat().st_mtime_ns, json.loads(record.read_text())["origin"]["model"]

    first, again = train(None), train(str(run / "checkpoint-1"))
    assert again == first
    with torch.no_grad():
        next(teacher.parameters()).mul_(2)
    assert train(str(run / "checkpoint-1"))[1]["weights"] != first[1]["weights"]


def test_one_with_other_tokens_is_refused_before_the_first_step(tiny_dir, tmp_path):
    other = tmp_path / "other"
    load(tiny_dir).save_pretrained(other)
    for file in tiny_dir.glob("*token*"):
        (other / file.name).write_text(file.read_text().replace('"<think>"', '"<muse>"'))
    trainer = plain_trainer(tiny_dir, tmp_path / "r")
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    trainer.add_callback(HeadTracking(pairs, reference=other, **TRACKING))
    with pytest.raises(ValueError, match="other has another tokenizer than the model that is"):
        trainer.train()
    assert not (tmp_path / "r" / "run.json").exists()

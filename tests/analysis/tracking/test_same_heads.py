"""The same heads in a run's records: kept once, compared at each step, absent from old runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.files import write_json
from analysis.heads.same import Kept
from analysis.records.record_files import read_kept, read_record, record_dir
from analysis.tracking.same_heads import same_as_base
from analysis.tracking.tracker import HeadTracker
from tests.support.models import random_pairs, tiny_model
from tests.support.tracked import SETTINGS

PAIRS = random_pairs(3, (9, 6, 7))


def test_the_base_keeps_its_heads_and_a_resumed_run_compares_with_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("qwen2", torch.float32)
    HeadTracker(tmp_path, PAIRS, SETTINGS).track(model, 0, show_progress=False)
    base = read_record(tmp_path, 0)
    assert base is not None and base.same is not None and base.same.chance is not None
    assert base.same.o_proj.eq(1).all() and base.same.attention.eq(1).all()
    kept = read_kept(tmp_path)
    assert kept is not None and kept.patterns.lengths == [9, 6, 7]
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, 8:16] *= -1
    again = HeadTracker(tmp_path, PAIRS, SETTINGS)
    again.track(model, 5, show_progress=False)
    record = read_record(tmp_path, 5)
    assert record is not None and record.same is not None and record.same.chance is None
    assert record.graph.names_of(record.same.changed) == ["a1.h1"]
    content = json.loads((record_dir(tmp_path, 5) / "record.json").read_text())
    assert content["same"]["heads"] == ["a1.h1"]
    assert [len(list(record_dir(tmp_path, n).glob("kept-*"))) for n in (0, 5)] == [1, 0]
    # a base of a version that kept none
    path = record_dir(tmp_path, 0) / "record.json"
    old = json.loads(path.read_text())
    write_json(path, {name: value for name, value in old.items() if name not in ("same", "kept")})
    how = record.graph, kept, PAIRS.groups, SETTINGS
    assert same_as_base(tmp_path, 6, *how) is None
    without = read_record(tmp_path, 0)
    assert without is not None and without.same is None
    # one whose patterns are kept of fewer queries, and one that is damaged
    write_json(path, old)
    fewer = Kept(kept.columns, replace(kept.patterns, shares=kept.patterns.shares[:-1]))
    assert same_as_base(tmp_path, 7, record.graph, fewer, *how[2:]) is None
    damage(tmp_path, "kept")
    assert same_as_base(tmp_path, 8, *how) is None
    reasons = ("keeps nothing of them", "are of other prompts or heads", "is damaged")
    for line, step, reason in zip(caplog.messages[-3:], (6, 7, 8), reasons, strict=True):
        assert line.startswith(f"the heads of step {step} are not compared with the base's: ")
        assert reason in line
    damage(tmp_path, "same")
    with pytest.raises(ValueError, match="same-.*is damaged"):
        read_record(tmp_path, 0)


def damage(run: Path, kind: str) -> None:
    [file] = record_dir(run, 0).glob(f"{kind}-*")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

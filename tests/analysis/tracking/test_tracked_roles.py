"""A tracker's roles: kills and failures, on one rank and on two."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.heads.roles import (
    read_roles,
    roles_path,
)
from analysis.heads.same import FIGURES
from analysis.records.record_files import read_record
from analysis.tracking.tracker import HeadTracker
from tests.support.models import random_pairs, tiny_model
from tests.support.places import ROOT
from tests.support.tracked import SETTINGS
from tests.support.warm import warm_python


def test_a_kill_between_roles_and_record_leaves_the_step_to_do(tmp_path, monkeypatch) -> None:
    tracker = HeadTracker(tmp_path, random_pairs(4), SETTINGS)
    model = tiny_model("qwen2")

    def kill(*args: Any) -> None:
        raise KeyboardInterrupt

    for place in ("beside.write_roles", "tracker.write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(f"analysis.tracking.{place}", kill)
            with pytest.raises(KeyboardInterrupt):
                tracker.track(model, 0, show_progress=False)
        assert not tracker.is_tracked(0)
    tracker.track(model, 0, show_progress=False)
    assert tracker.is_tracked(0)
    assert read_roles(tmp_path, 0) is not None


def test_roles_that_fail_do_not_cost_the_record(tmp_path, monkeypatch) -> None:
    def fail(*args: Any) -> None:
        raise ValueError("no roles today")

    tracker = HeadTracker(tmp_path, random_pairs(4), SETTINGS)
    monkeypatch.setattr("analysis.tracking.beside.find_regions", fail)
    with pytest.raises(ValueError, match="no roles today"):
        tracker.track(tiny_model("qwen2"), 0, show_progress=False)
    assert tracker.is_tracked(0)
    assert read_roles(tmp_path, 0) is None


TWO_RANKS = """
import sys
from pathlib import Path
import torch.distributed as dist
from tests.support.models import random_pairs, tiny_model
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
dist.init_process_group("gloo")
settings = TrackingSettings(fraction=0.1, resamples=50, ig_steps=2)
pairs = random_pairs(5, (20, 16, 18))
tracker = HeadTracker(Path({run!r}), pairs, settings)
"""
TRACK = """
tracker.track(tiny_model("qwen2", seed=1), 0, show_progress=False)
tracker.track(tiny_model("qwen2"), 3, show_progress=False)
"""
FAIL_ON_ONE = """
import analysis.tracking.beside

def fail(*args):
    raise ValueError("no roles today")

if dist.get_rank() == 1:
    analysis.tracking.beside.find_regions = fail
try:
    tracker.track(tiny_model("qwen2"), 3, show_progress=False)
except (ValueError, RuntimeError) as error:
    print(f"rank {dist.get_rank()}: {error}", flush=True)
"""


def two_ranks(run: Path, code: str) -> str:
    """What two ranks print that run TWO_RANKS and this code."""
    script = run.parent / "two.py"
    script.write_text(TWO_RANKS.format(run=str(run)) + code)
    words = ["-m", "launch.torchrun", "--standalone", "--nproc-per-node=2", str(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [warm_python(), *words], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.distributed
def test_roles_that_fail_on_one_rank_do_not_cost_the_record(tmp_path: Path) -> None:
    said = two_ranks(tmp_path / "two", FAIL_ON_ONE)
    assert "rank 0: another rank failed" in said
    assert "rank 1: no roles today" in said
    assert read_record(tmp_path / "two", 3) is not None


@pytest.mark.distributed
def test_two_ranks_find_the_roles_and_the_kl_of_one(tmp_path: Path) -> None:
    two_ranks(tmp_path / "two", TRACK)
    tracker = HeadTracker(tmp_path / "one", random_pairs(5, (20, 16, 18)), SETTINGS)
    tracker.track(tiny_model("qwen2", seed=1), 0, show_progress=False)
    tracker.track(tiny_model("qwen2"), 3, show_progress=False)
    one, two = (roles_path(tmp_path / name, 3).read_text() for name in ("one", "two"))
    assert one == two
    records = [read_record(tmp_path / name, 3) for name in ("one", "two")]
    kl = [record.kl for record in records if record is not None and record.kl is not None]
    torch.testing.assert_close(kl[0], kl[1], rtol=1e-5, atol=1e-7)
    same = [record.same for record in records if record is not None and record.same is not None]
    assert same[0].changed.any()
    for name in FIGURES:
        torch.testing.assert_close(getattr(same[0], name), getattr(same[1], name))

"""The demo as a user runs it (`make test-slow`; about 4 minutes)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from analysis.records.evaluations import read_evaluations
from analysis.records.record import read_records
from tests.support.places import ROOT


@pytest.mark.slow
def test_held_out_accuracy_rises_under_sft_and_grpo(tmp_path):
    """The intervals of pass@1 at the base and at the end do not overlap, in both runs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    del environment["OMP_NUM_THREADS"]
    command = [sys.executable, "-m", "launch.demo", "experiment=tiny"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for kind in ("sft", "grpo"):
        scores = read_evaluations(tmp_path / "runs" / f"tiny-{kind}-seed0")
        assert scores[60]["low"] > scores[0]["high"]
        assert len(read_records(tmp_path / "runs" / f"tiny-{kind}-seed0")) == 7
    assert "report-tiny-sft-seed0-tiny-grpo-seed0.html" in done.stdout
    assert "offline-run-" in done.stdout
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.stdout.count("nothing is trained") == 2

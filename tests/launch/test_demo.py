"""The demos as a user runs them (`make test-slow`; about 20 minutes)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.records.evaluations import read_evaluations
from analysis.records.record_files import read_records
from analysis.trajectories.run import Run
from launch.acts import planted_heads, planted_in
from launch.findings import by_chance, called_in
from tests.support.places import ROOT


def demo(place: Path, *words: str) -> str:
    """What a demo prints, run in a directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    del environment["OMP_NUM_THREADS"]
    command = [sys.executable, "-m", "launch.demo", *words]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_held_out_accuracy_rises_under_sft_and_grpo(tmp_path):
    """The intervals of pass@1 at the base and at the end do not overlap, in both runs."""
    said = demo(tmp_path, "experiment=tiny")
    for kind in ("sft", "grpo"):
        scores = read_evaluations(tmp_path / "runs" / f"tiny-{kind}-seed0")
        assert scores[60]["low"] > scores[0]["high"]
        assert len(read_records(tmp_path / "runs" / f"tiny-{kind}-seed0")) == 7
    assert "report-tiny-sft-seed0-tiny-grpo-seed0.html" in said
    assert "offline-run-" in said
    assert demo(tmp_path, "experiment=tiny").count("nothing is trained") == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_heads_emerge_are_needed_and_come_back(tmp_path, seed):
    said = demo(tmp_path, "experiment=lookup", f"seed={seed}")
    runs = {kind: tmp_path / "runs" / f"lookup-{kind}-seed{seed}" for kind in ("sft", "grpo")}
    sft, grpo = (Run.read(run) for run in runs.values())
    # act one: more called than chance gives in the raw set
    emerged = set(called_in(sft))
    assert len(emerged) > sft.points[-1].change.null["emergent"][1]
    scores = [row.evaluation["pass_at_1"] for row in sft.rows if row.evaluation]
    assert scores[0] < 0.5 and scores[-1] > 0.9
    # act three: at least half of the planted, and the others within the rate
    planted = set(planted_heads(planted_in(runs["sft"])))
    back = set(called_in(grpo))
    assert planted <= emerged
    assert len(back & planted) >= len(planted) / 2
    assert len(back & planted) > by_chance(len(planted), len(back), 32)[1]
    assert len(back - planted) <= max(1, 0.05 * len(back))
    screen = said.split("What emerged")[1].partition("report:")[0]
    assert max(map(len, screen.splitlines())) <= 80
    assert demo(tmp_path, "experiment=lookup", f"seed={seed}").count("nothing is trained") == 2

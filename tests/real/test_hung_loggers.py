"""A trainer that knows nothing of headlab reports to W&B and TensorBoard: heads come beside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.reporting.wandb_files import rows
from tests.support.events import steps_in
from tests.support.places import ROOT

pytestmark = pytest.mark.real

SCRIPT = """
import sys
from pathlib import Path
from headlab import HeadTracking
from tests.support.hung import TRACKING, plain_trainer, write_pairs
model, out, tracked, resume = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "y", sys.argv[4] == "y"
trainer = plain_trainer(Path(model), out, report_to=["wandb", "tensorboard"], run_name="r")
if tracked:
    trainer.add_callback(HeadTracking(write_pairs(out.parent / "pairs.jsonl"), **TRACKING))
trainer.train(resume_from_checkpoint=str(out / "checkpoint-2") if resume else None)
"""


def train(model: Path, out: Path, tracked: bool, resume: bool = False) -> str:
    words = [str(model), str(out), *("y" if on else "n" for on in (tracked, resume))]
    more = {"WANDB_MODE": "offline", "WANDB_RUN_ID": "theirs", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        env={**os.environ, **more},
        cwd=out.parent,
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_heads_beside_what_a_trainer_reports(tmp_path: Path, tiny_dir: Path) -> None:
    """In its own W&B run and beside its event files; a run that goes on gives none again."""
    from safetensors.torch import load_file

    train(tiny_dir, tmp_path / "out", tracked=True)
    [session] = tmp_path.glob("wandb/offline-run-*")
    assert [row.name for row in rows(session)] == ["heads/0", "heads/2", "heads/4"]
    there = steps_in(tmp_path / "out" / "runs" / "headlab")
    assert there["heads/emergent"] == there["heads/map"] == [0, 2, 4]
    assert "train/loss" not in there
    [own] = (path for path in (tmp_path / "out" / "runs").iterdir() if path.name != "headlab")
    assert steps_in(own)["train/loss"] == [1, 2, 3, 4]
    (tmp_path / "bare").mkdir()
    train(tiny_dir, tmp_path / "bare" / "out", tracked=False)
    weights = "checkpoint-4/model.safetensors"
    mine, bare = (load_file(tmp_path / p / weights) for p in ("out", "bare/out"))
    assert all((mine[name] == bare[name]).all() for name in bare) and mine.keys() == bare.keys()
    train(tiny_dir, tmp_path / "out", tracked=True, resume=True)
    given = [
        row.name for each in sorted(tmp_path.glob("wandb/offline-run-*")) for row in rows(each)
    ]
    assert given[:3] == ["heads/0", "heads/2", "heads/4"]
    assert given.count("heads/0") == given.count("heads/2") == 1
    assert steps_in(tmp_path / "out" / "runs" / "headlab")["heads/emergent"][:3] == [0, 2, 4]

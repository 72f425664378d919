"""`headlab roles`: measures what a run lacks, on the weights that were recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis.commands.roles import Options, act
from analysis.heads.roles import (
    read_roles,
    roles_path,
)
from analysis.reporting.roles import TITLES
from tests.support.tracked import tracked
from train.recipes.tiny import build_random


def test_the_command_measures_what_is_missing(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    tracked(run, tiny_dir)
    written = roles_path(run, 0).read_text()
    act(Options(str(run)))
    first = capsys.readouterr().out
    assert "to operands" in first
    for base in (None, {"path": str(tiny_dir), "dtype": "float32"}):
        roles_path(run, 0).unlink()
        if base:
            (run / "base.json").write_text(json.dumps(base))
        act(Options(str(run)))
        assert capsys.readouterr().out == first
        assert roles_path(run, 0).read_text() == written
    build_random(tiny_dir, seed=1)
    with pytest.raises(ValueError, match="other weights than step 0"):
        act(Options(str(run), redo=True))
    (run / "base.json").unlink()
    shutil.rmtree(tiny_dir)
    with pytest.raises(ValueError, match="no checkpoint of step 0"):
        act(Options(str(run), redo=True))
    with pytest.raises(ValueError, match="no valid record of step 7; it has: 0"):
        act(Options(str(run), step="7"))
    with pytest.raises(ValueError, match="there is no run"):
        act(Options(str(tmp_path / "nowhere")))


def test_a_training_run_leaves_roles_that_its_checkpoints_give_again(
    finished_run: Any, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run("sft", "evaluation=none"), tmp_path / "run"))
    live = [read_roles(run, step) for step in (0, 2, 4)]
    for step, roles in zip((0, 2, 4), live, strict=True):
        assert roles is not None
        assert roles.scores["operands"].pairs > 0  # the tokenizer has come through
        act(Options(str(run), step=str(step), redo=True))
        again = read_roles(run, step)
        assert again is not None
        for name in TITLES:
            for end in ("value", "low", "high"):
                assert getattr(again.scores[name], end) == pytest.approx(
                    getattr(roles.scores[name], end), rel=1e-3, abs=1e-4, nan_ok=True
                )
    assert live[0] != live[2]

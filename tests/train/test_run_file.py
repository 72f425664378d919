"""A training says what its run is in run.json, and a resumed one says it again."""

from __future__ import annotations

import pytest

from analysis.commands import run as command
from analysis.records.run_file import RunFile
from tests.support.runs import small
from train.run import prepare, run


def test_a_training_writes_its_run_file(compose, tiny_dir, tmp_path, capsys):
    """One of an earlier version gets it by resume=auto, which trains nothing if it is finished."""
    directory = tmp_path / "r"
    more = ["evaluation=none", "tracking.fdr=0.2", "logger.wandb_project=p", "name=n", "seed=4"]
    arguments = small("sft", tiny_dir, directory, *more)
    run(prepare(compose("sft", *arguments)))
    file = RunFile.read(directory)
    assert (file.name, file.kind, file.signal, file.seed) == ("n", "sft", "loss", 4)
    assert (file.fdr, file.hysteresis) == (0.2, 2)
    assert (file.wandb_project, file.max_head_curves) == ("p", 200)
    assert file.tracking is not None
    assert (file.tracking["ig_steps"], file.tracking["resamples"]) == (2, 10)
    (directory / "config.yaml").rename(tmp_path / "config.yaml")
    with pytest.raises(ValueError, match="already holds a run"):
        prepare(compose("sft", *arguments))
    (tmp_path / "config.yaml").rename(directory / "config.yaml")
    (directory / "run.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in directory.glob("heads/*/*")}
    with pytest.raises(SystemExit):
        command("report", [f"runs={directory}"])
    assert "a training with resume=auto" in capsys.readouterr().err
    run(prepare(compose("sft", *arguments, "resume=auto")))
    assert RunFile.read(directory) == file
    assert {path: path.stat().st_mtime_ns for path in directory.glob("heads/*/*")} == before
    assert "nothing is trained" in capsys.readouterr().out
    command("report", [f"runs={directory}"])

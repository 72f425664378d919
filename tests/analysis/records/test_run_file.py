"""What a run says of itself: written whole, read strictly, every mistake one line with its mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.files import write_json
from analysis.records.run_file import RunFile, config_text, configuration, is_run

FILE = RunFile("my-run", "sft", "loss", {"ig_steps": 2}, 0.1, 3, "project", 7, 5, "base", "float32")


def test_it_reads_what_it_wrote(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    assert not is_run(run)
    FILE.write(run)
    assert is_run(str(run))
    assert RunFile.read(str(run)) == FILE
    assert json.loads((run / "run.json").read_text())["schema"] == 1
    assert [path.name for path in run.iterdir()] == ["run.json"]
    RunFile("other", "track").write(str(run))
    assert RunFile.read(run) == RunFile("other", "track", None, None, 0.05, 2, "headlab", 200)


def test_the_configuration_is_a_witness(tmp_path: Path) -> None:
    """It is shown if it is there, and says nothing about what the run is."""
    FILE.write(tmp_path)
    assert config_text(tmp_path) is None
    assert configuration(tmp_path)["wandb_project"] == "project"
    (tmp_path / "config.yaml").write_text("name: another\nseed: 1\n")
    assert config_text(str(tmp_path)) == "name: another\nseed: 1\n"
    assert configuration(tmp_path) == {"name": "another", "seed": 1}
    assert RunFile.read(tmp_path) == FILE


def test_mistakes_are_named_with_their_mend(tmp_path: Path) -> None:
    def refused(message: str, run: Path = tmp_path) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            RunFile.read(run)
        assert "\n" not in str(caught.value)

    mend = r"a training with resume=auto, `headlab track` as it was\): that writes run\.json"
    refused("there is no run .*/nowhere; give a directory", tmp_path / "nowhere")
    refused("holds no run.json, so it is not a run")
    (tmp_path / "config.yaml").write_text("name: x\n")
    refused(f"holds no run.json, so an earlier version of headlab made it; .*{mend}")
    file = tmp_path / "run.json"
    for damaged in ("", "{", "[]", '"x"'):
        file.write_text(damaged)
        refused(f"run.json can't be read .*{mend}")
    FILE.write(tmp_path)
    whole = json.loads(file.read_text())
    write_json(file, {**whole, "schema": 2})
    refused("has schema 2 and this version reads 1; use the version that wrote it")
    write_json(file, {**whole, "colour": "red"})
    refused(f"has an unknown key 'colour'; .*{mend}")
    write_json(file, {key: value for key, value in whole.items() if key != "fdr"})
    refused("has no key 'fdr'")
    for key, value, message in (
        ("fdr", 1.0, r"fdr must lie in \(0, 1\), not 1.0"),
        ("fdr", "much", "run.json: "),
        ("hysteresis", 0, "hysteresis must be 1 checkpoint or more, not 0"),
        ("max_head_curves", -1, "max_head_curves must be 0 or more, not -1"),
    ):
        write_json(file, {**whole, key: value})
        refused(message)

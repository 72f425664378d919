"""What shows a run is written from one reading of it, and nothing that is off stands in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.records import record_files
from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from analysis.reporting.mirror import open_mirrors
from analysis.reporting.present import present, write_pages
from analysis.reporting.publish import Publisher
from analysis.reporting.tables import format_table
from analysis.reporting.wandb_run import missing
from analysis.trajectories.run import Run
from tests.support.planted import World, make_record

BASE, MOVED = World(4, changed=10, factor=100.0, noise=0.02).scores(8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    RunFile("r", "track").write(tmp_path / "r")
    for step, scores in ((0, BASE), (10, MOVED)):
        write_record(tmp_path / "r", make_record(step, scores, 40), scores)
    return tmp_path / "r"


def test_a_run_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.read(str(path))
    monkeypatch.setattr(record_files, "_tensors", None)  # no record is read again
    monkeypatch.setattr(RunFile, "read", None)
    write_pages(run)
    assert {"trajectory.json", "report.html"} <= {file.name for file in path.iterdir()}
    assert "called" in format_table(run)
    assert [entry.name for entry in missing(run, "online")] == ["heads/0", "heads/10"]


def test_nothing_is_shown_of_a_run_without_checkpoints(tmp_path: Path) -> None:
    RunFile("young", "sft", "loss").write(tmp_path)
    assert Run.read(tmp_path).rows == []
    present(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_publisher_that_is_off_is_none(path: Path) -> None:
    assert Publisher.start(path, open_mirrors(logger="wandb", mode="disabled")) is None
    present(path, None, pages=False)
    assert {file.name for file in path.iterdir()} == {"run.json", "heads"}
    present(path)
    assert (path / "report.html").exists()
    assert not (path / "wandb-id").exists()

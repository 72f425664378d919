"""A directory with run.json and records is a run for every command, whatever program made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.commands import run as command
from analysis.records.locks import Lock
from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from analysis.reporting.wandb_mirror import WandbMirror
from tests.support.mirrors import FakeMirror
from tests.support.planted import World, make_record

BASE, MOVED = World(4, changed=10, factor=100.0, noise=0.02).scores(8)


def records_only(directory: Path) -> Path:
    for step, scores in ((0, BASE), (10, MOVED)):
        write_record(directory, make_record(step, scores, 40), scores)
    return directory


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    RunFile("made-elsewhere", "other").write(tmp_path / "runs" / "bare")
    return records_only(tmp_path / "runs" / "bare")


def test_report_comparison_and_paper(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("report", [f"runs={bare}"])
    page = (bare / "report.html").read_text()
    assert "In <b>made-elsewhere</b>, at step 10 against the base" in page
    assert "config.yaml" not in page.partition("</script>")[2].partition("<script>")[0]
    out = bare.parent.parent / "out"
    command("compare", [f"a={bare}@0", f"b={bare}", "cross=false", f"out={out}"])
    assert (out / "comparison.html").exists()
    assert "made-elsewhere@10" in capsys.readouterr().out
    command("paper", [f"runs={bare.parent}"])
    assert f"made-elsewhere: {bare}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["publish", "run"])
def test_publish_beside_another_that_publishes_is_refused(
    bare: Path, name: str, capsys: Any
) -> None:
    """Two at once, or one beside the trainer, would each give W&B all of the rows."""
    (bare / "locks").mkdir()
    with Lock.take(bare / "locks" / name, "it"), pytest.raises(SystemExit):
        command("publish", [f"run={bare}", "mode=offline"])
    assert f"{bare} is in use by process" in capsys.readouterr().err


def test_publish(bare: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[Any] = []
    fake = FakeMirror(bare)
    monkeypatch.setattr(WandbMirror, "begin", lambda *a: given.extend(a) or fake)
    command("publish", [f"run={bare}", "mode=offline"])
    _, name, project, mode, config = given
    assert (name, project, mode, config["kind"]) == (
        "made-elsewhere",
        "headlab",
        "offline",
        "other",
    )
    assert [row["heads/step"] for row in fake.rows] == [0, 10]
    assert "logged 2 rows, steps 0 to 10" in capsys.readouterr().out
    command("publish", [f"run={bare}", "mode=offline"])
    assert capsys.readouterr().out.endswith("nothing is missing\n")


def test_records_without_a_run_file(tmp_path: Path, caplog: Any, capsys: Any) -> None:
    """They are no run, which is said: by the paper's tables, beside those of the runs there are."""
    old = records_only(tmp_path / "old")
    (old / "config.yaml").write_text("name: old\ntrain: {kind: sft}\n")
    with pytest.raises(SystemExit):
        command("report", [f"runs={old}"])
    assert "an earlier version of headlab made it" in capsys.readouterr().err
    RunFile("r", "track").write(records_only(tmp_path / "new"))
    command("paper", [f"runs={tmp_path}"])
    assert f"r: {tmp_path / 'new'}" in capsys.readouterr().out
    assert "left out: " in caplog.text
    assert str(old) in caplog.text


@pytest.mark.parametrize("there", [True, False])
def test_tracking_takes_up_what_earlier_versions_left(tmp_path: Path, there: bool) -> None:
    """The records say what they were measured with; run.json is added, config.yaml kept."""
    from analysis.cli import parse
    from analysis.commands.track import Options
    from analysis.commands.tracked_run import prepare_run

    run = records_only(tmp_path / "run") if there else tmp_path / "run"
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text("name: run\n")
    words = [f"run={run}", "checkpoints=x", "base=b", "pairs=p.jsonl", "tracking.resamples=77"]
    if there:
        with pytest.raises(ValueError, match=r"with other settings; give .*tracking.resamples=\d"):
            prepare_run(parse(Options, words))
        assert not (run / "run.json").exists()
        return
    prepare_run(parse(Options, words))
    file = RunFile.read(run)
    assert file.tracking is not None
    assert (file.name, file.kind, file.tracking["resamples"]) == ("run", "track", 77)
    assert (run / "config.yaml").read_text() == "name: run\n"
    (run / "run.json").unlink()
    (run / "base.json").write_text('{"path": "b", "dtype": "float32"}')
    with pytest.raises(ValueError, match="a training with resume=auto"):
        prepare_run(parse(Options, words))

"""Which rows W&B has: those in its files, and those that its server has said it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from analysis.records.training_log import append_metrics
from analysis.reporting.mirror import open_mirrors
from analysis.reporting.publish import Publisher
from analysis.reporting.rows import training_rows
from analysis.reporting.wandb_files import Row, rows
from analysis.reporting.wandb_given import Given
from analysis.reporting.wandb_run import missing
from analysis.trajectories.run import Run
from tests.support.mirrors import FakeMirror, write_session
from tests.support.planted import World, make_record
from tests.support.publishing import to_wandb

BASE, MOVED = World(4, changed=10, factor=100.0, noise=0.02).scores(8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunFile("r", "sft", "loss").write(tmp_path / "r")
    for step, scores in ((0, BASE), (10, MOVED)):
        write_record(tmp_path / "r", make_record(step, scores, 40), scores)
    for step in (1, 2):
        append_metrics(tmp_path / "r", step, {"loss": 1.0 / step})
    return tmp_path / "r"


def named(run: Path, mode: str) -> list[str]:
    return [entry.name for entry in missing(Run.read(run), mode)]


ALL = ["heads/0", "train/1", "train/2", "heads/10"]


def give(run: Path, mirror: FakeMirror) -> list[str]:
    """What a session was given."""
    publisher = to_wandb(run, mirror)
    publisher.update(Run.read(run))
    publisher.finish()
    return [row["headlab/row"].split()[0] for row in mirror.rows]


def test_rows_are_read_from_files_of_many_blocks(tmp_path: Path) -> None:
    """Records that cross blocks, a row without a mark, an end that was cut, no file at all."""
    marks = [{"headlab/row": f"heads/{n} d{n}", "x": "y" * size} for n, size in enumerate(SIZES)]
    file = write_session(tmp_path / "run-1-id", [*marks, {"loss": 1}, marks[0]], 3)
    expected = [Row(3 + n, f"heads/{n}", f"d{n}") for n in range(len(SIZES))]
    assert rows(tmp_path / "run-1-id") == [*expected, Row(4 + len(SIZES), "heads/0", "d0")]
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    assert rows(tmp_path / "run-1-id") == expected
    file.write_bytes(content[:5])
    assert rows(tmp_path / "run-1-id") == []
    assert rows(tmp_path / "nowhere") == []


SIZES = (0, 100_000, 32_650, 5, 32_768, 7, 32_600, 100)


def test_offline_files_are_not_the_server(run: Path) -> None:
    assert give(run, FakeMirror(run)) == ALL
    assert named(run, "offline") == []
    assert named(run, "online") == ALL
    [file] = run.glob("wandb/*/*.wandb")
    file.with_suffix(".wandb.synced").touch()  # `wandb sync` does
    assert named(run, "online") == []
    assert give(run, FakeMirror(run, "online", 4)) == []


def test_a_session_that_lost_its_server_is_completed(run: Path) -> None:
    """What the server says that it has is counted, the rest is given again, none twice."""
    lost = FakeMirror(run, "online", whole=False)
    assert give(run, lost) == ALL
    assert named(run, "online") == ALL  # not known
    assert named(run, "offline") == []  # in a file
    again = FakeMirror(run, "online", server=2, whole=False)
    assert give(run, again) == ALL[2:]
    assert named(run, "online") == ALL[2:]
    last = FakeMirror(run, "online", server=3)
    assert give(run, last) == ALL[3:]
    assert named(run, "online") == []
    assert Given.read(run).open == {}


def test_rows_in_no_file_are_given_again(run: Path) -> None:
    """W&B's process died before it wrote them."""
    mirror = FakeMirror(run)
    publisher = to_wandb(run, mirror)
    publisher.update(Run.read(run))
    mirror.rows, mirror.whole = mirror.rows[:1], False
    assert publisher.finish() == ALL[1:]
    assert give(run, FakeMirror(run)) == ALL[1:]


def test_a_mirror_that_dies_is_started_again_and_not_for_ever(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mirrors: list[FakeMirror] = []

    def start(*how: Any) -> FakeMirror:
        mirrors.append(FakeMirror(run))
        return mirrors[-1]

    monkeypatch.setattr("analysis.reporting.wandb_run.WandbMirror.start", start)
    publisher = Publisher.start(run, open_mirrors(logger="wandb", mode="offline"))
    assert publisher is not None
    for _ in range(6):
        mirrors[-1].is_alive, mirrors[-1].rows, mirrors[-1].whole = False, [], False
        publisher.training(1, {"loss": 1.0})
    assert len(mirrors) == 4
    assert len(caplog.messages) == 3
    assert "headlab publish" in caplog.messages[-1]


def test_nothing_of_the_mirror_raises(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = to_wandb(run, FakeMirror(run))
    for name in ("finish", "log", "summarise"):
        monkeypatch.setattr(publisher.mirrors[0], name, None)
    publisher.training(1, {"loss": 1.0, "train_runtime": 2.0})
    publisher.configure({})
    publisher.conclude()
    [said] = caplog.messages
    assert said.startswith("W&B misses something") and "the local records are complete" in said


@pytest.mark.parametrize("content", ["{", "[]", '{"online": []}', '{"settled": {}}', "\x00"])
def test_a_damaged_account_is_passed_over(run: Path, content: str) -> None:
    give(run, FakeMirror(run))
    (run / "wandb-published.json").write_text(content)
    assert named(run, "offline") == []


def test_rows_of_the_trainer() -> None:
    """Names and axis are those of transformers; how long a step took makes no other row of it."""
    log = {"loss": 0.5, "step_time": 1.0, "eval_loss": 2.0, "train_runtime": 9.0, "note": "x"}
    train, evaluated = training_rows(7, log)
    assert (train.name, train.axis, train.step) == ("train/7", "train/global_step", 7)
    assert train.values == {"train/loss": 0.5, "train/step_time": 1.0}
    assert (evaluated.name, evaluated.values) == ("train-eval/7", {"eval/loss": 2.0})
    assert training_rows(7, {**log, "step_time": 3.0})[0].digest == train.digest
    assert training_rows(7, {**log, "loss": 0.6})[0].digest != train.digest


def test_the_last_log_of_a_trainer_is_no_second_row(run: Path) -> None:
    mirror = FakeMirror(run)
    publisher = to_wandb(run, mirror)
    publisher.training(2, {"loss": 0.5, "epoch": 1.0})
    publisher.training(2, {"train_runtime": 3.0, "train_loss": 0.7, "epoch": 1.0})
    assert [row["train/global_step"] for row in mirror.rows] == [2]
    assert mirror.summary == {"train_runtime": 3.0, "train_loss": 0.7}


def test_old_accounts_count(run: Path) -> None:
    """Rows that an earlier version gave are known by name and digest."""
    wanted = {entry.name: entry.digest for entry in missing(Run.read(run), "online")}
    (run / "wandb-published.json").write_text(json.dumps({"online": wanted}))
    assert named(run, "online") == []

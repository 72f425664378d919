"""The same rows go to every logger that is asked for, none twice, and none can harm another."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.records.needed import Needed, write_needed
from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from analysis.records.training_log import append_metrics
from analysis.reporting import mirror as mirrors
from analysis.reporting import trackio_mirror
from analysis.reporting.adopted_wandb import AdoptedWandb
from analysis.reporting.bounded import within
from analysis.reporting.mirror import open_mirrors
from analysis.reporting.publish import Publisher, lacking
from analysis.reporting.rows import map_rows
from analysis.reporting.tensorboard_mirror import TensorBoard
from analysis.reporting.trackio_mirror import Trackio
from analysis.reporting.wandb_run import WandbRun
from analysis.trajectories.run import Run
from tests.support.events import steps_in
from tests.support.mirrors import FakeMirror, write_session
from tests.support.planted import World, make_record
from tests.support.publishing import to_wandb

BASE, MOVED = World(4, changed=10, factor=100.0, noise=0.02).scores(8)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    RunFile("r", "sft", "loss").write(tmp_path / "r")
    for step, scores in ((0, BASE), (10, MOVED)):
        write_record(tmp_path / "r", make_record(step, scores, 40), scores)
    append_metrics(tmp_path / "r", 1, {"loss": 1.0})
    return tmp_path / "r"


def publisher(run: Path, *found: Any) -> Publisher:
    made = Publisher.start(run, found)
    assert made is not None
    return made


def test_tensorboard(run: Path) -> None:
    """Its files hold rows, pictures and tables at their steps; a resumed run adds the new ones."""
    first = publisher(run, TensorBoard())
    assert first.update(Run.read(run)) == [0, 1, 10]
    assert first.update(Run.read(run)) == []
    first.conclude()
    write_record(run, make_record(20, MOVED, 40), MOVED)
    assert [m.name for m in lacking(Run.read(run), [TensorBoard()])] == ["tensorboard"]
    again = publisher(run, TensorBoard())
    assert again.update(Run.read(run)) == [20]
    write_needed(run, Needed(20, "", "kl", "given", 1, ["L0H1"]))  # at the end of a run
    assert again.update(Run.read(run)) == [20]
    again.conclude()
    assert lacking(Run.read(run), [TensorBoard()]) == []
    there = steps_in(run / "runs" / "headlab")
    assert there["heads/emergent"] == there["circuit/faithfulness/lo"] == [0, 10, 20]
    assert there["heads/map"] == there["heads/map_table/text_summary"] == [0, 10, 20]
    assert there["train/loss"] == [1] and there["needed/heads"] == [20]
    for file in (run / "runs" / "headlab").iterdir():
        file.unlink()
    assert len(lacking(Run.read(run), [TensorBoard()])) == 1  # removed by its user: made again


def test_what_another_training_left_is_not_added_to(run: Path) -> None:
    """Its account was put aside with its records, or the directory is another run's."""
    for number in ("", "-2"):
        publisher(run, TensorBoard()).update(Run.read(run))
        assert lacking(Run.read(run), [TensorBoard()]) == []
        assert any((run / "runs" / f"headlab{number}").iterdir())
        (run / "mirrors.jsonl").unlink()
    publisher(run, TensorBoard())  # one that shows nothing leaves nothing
    assert len(list((run / "runs").iterdir())) == 2


def test_a_directory_that_trainings_share(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(run.parent / "all"))
    mirror = TensorBoard(training=False)
    publisher(run, mirror).update(Run.read(run))
    mirror.finish()
    there = steps_in(run.parent / "all" / "headlab-r")
    assert there["heads/emergent"] == [0, 10]
    assert "train/loss" not in there  # the trainer gives it that itself


class Session(types.SimpleNamespace):
    """The W&B run that a trainer has open."""

    def __init__(self, files: Path) -> None:
        super().__init__(id="a-b", dir=str(files / "files"), disabled=False, offline=True)
        self.rows: list[dict[str, Any]] = []
        self.axes: dict[str, str] = {}
        self.told: list[tuple[str, ...]] = []

    def define_metric(self, name: str, step_metric: str = "", hidden: bool = False) -> None:
        assert name not in self.axes
        self.axes[name] = step_metric

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def alert(self, *said: str) -> None:
        self.told.append(said)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    made = Session(tmp_path / "w" / "wandb" / "run-20260101_000000-a-b")
    fake = types.SimpleNamespace(
        run=made, Table=lambda titles, rows: len(rows), Image=lambda picture: picture.size
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return made


def test_the_open_run_of_wandb_is_adopted(run: Path, session: Session) -> None:
    """It gets heads and no row of the trainer's; each value has its step; nothing ends it."""
    [mirror] = open_mirrors(["wandb"])
    assert isinstance(mirror, AdoptedWandb)
    given = publisher(run, mirror)
    assert given.update(Run.read(run)) == [0, 10]
    assert [row["heads/step"] for row in session.rows] == [0, 10]
    assert not any("train/loss" in row for row in session.rows)
    assert session.axes["heads/emergent"] == session.axes["heads/map"] == "heads/step"
    given.training(2, {"loss": 0.5, "train_runtime": 2.0})
    given.configure({"x": 1})
    given.alert("a" * 80, "text")
    assert session.told == [("a" * 60, "text", "WARN")]
    given.conclude()
    assert len(session.rows) == 2


def test_a_resumed_run_of_wandb_gets_no_row_twice(
    run: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By W&B's files of the same run, and where these are gone, by what the run notes itself."""
    publisher(run, AdoptedWandb(session)).update(Run.read(run))  # type: ignore[arg-type]
    marks = [{"headlab/row": row["headlab/row"]} for row in session.rows]
    assert publisher(run, AdoptedWandb(session)).update(Run.read(run)) == []  # type: ignore[arg-type]
    monkeypatch.undo()  # its files are read with W&B's own package
    monkeypatch.setattr("wandb.run", session)
    files = Path(session.dir).parent
    write_session(files.with_name("run-20250101_000000-a-b"), marks[:1])
    write_session(files.with_name("run-20250101_000000-b"), marks)  # another run's
    mirror = AdoptedWandb(session)  # type: ignore[arg-type]
    assert mirror.start(run)
    assert list(mirror.known(run)) == ["heads/0"]


def test_a_run_of_wandb_that_ended_gets_nothing(run: Path, session: Session) -> None:
    mirror = AdoptedWandb(session)  # type: ignore[arg-type]
    given = publisher(run, mirror)
    sys.modules["wandb"].run = None
    assert given.update(Run.read(run)) == []


class FakeTrackio(types.SimpleNamespace):
    """As much of trackio as its mirror calls."""

    def __init__(self, home: Path) -> None:
        super().__init__(sessions=[], home=home)
        self.context_vars = types.SimpleNamespace(
            current_run=types.SimpleNamespace(get=lambda: None)
        )
        self.Image = lambda picture: picture.size
        self.Table = lambda columns, data: (columns, len(data))

    def init(self, **how: Any) -> Any:
        made = types.SimpleNamespace(how=how, rows=[], told=[], over=False, **IDS)
        made.log = lambda row, step=None: made.rows.append((step, row))
        made.alert = lambda *said: made.told.append(said)
        made.finish = lambda: setattr(made, "over", True)
        self.sessions.append(made)
        (self.home / "db").touch()
        return made


IDS = {"project": "p", "id": "1"}


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTrackio]:
    made = FakeTrackio(tmp_path)
    monkeypatch.setitem(sys.modules, "trackio", made)
    monkeypatch.setattr(trackio_mirror, "database", lambda project: str(tmp_path / "db"))
    monkeypatch.setattr(mirrors, "is_installed", lambda name: True)
    return made


def test_trackio(run: Path, trackio: FakeTrackio) -> None:
    """A run of our own is named once and for all, and gets what it has not got."""
    [mirror] = open_mirrors(logger="trackio", project="mine")
    assert lacking(Run.read(run), [mirror]) == [mirror]
    given = publisher(run, mirror)
    assert given.update(Run.read(run)) == [0, 1, 10]
    given.alert("title", "text")
    given.conclude()
    [session] = trackio.sessions
    assert (session.how["project"], session.how["resume"]) == ("mine", "allow")
    assert [step for step, _ in session.rows] == [0, 1, 10]
    assert {"heads/emergent", "heads/map", "heads/map_table"} <= session.rows[-1][1].keys()
    assert session.over and session.told == [("title", "text")]
    again = Trackio(project="mine")
    assert lacking(Run.read(run), [again]) == []
    assert publisher(run, again).update(Run.read(run)) == []
    assert trackio.sessions[1].how["name"] == session.how["name"]
    (run.parent / "db").unlink()
    assert len(lacking(Run.read(run), [Trackio(project="mine")])) == 1


def test_an_open_run_of_trackio_is_adopted(run: Path, trackio: FakeTrackio) -> None:
    """The trainer counts its steps in it, so ours are values; the trainer ends it."""
    session = trackio.init()
    trackio.context_vars.current_run.get = lambda: session
    [mirror] = open_mirrors("trackio")
    given = publisher(run, mirror)
    assert given.update(Run.read(run)) == [0, 10]
    given.conclude()
    assert [(step, row["heads/step"]) for step, row in session.rows] == [(None, 0), (None, 10)]
    assert not session.over
    assert publisher(run, *open_mirrors("trackio")).update(Run.read(run)) == []


def test_one_that_fails_harms_no_other(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At its start, at each row or at its end: one warning, and the others have every row."""
    broken, session = TensorBoard(), FakeMirror(run)
    given = publisher(run, broken)
    given.mirrors += to_wandb(run, session).mirrors

    def fail(*how: Any, **more: Any) -> None:
        raise OSError("disk full")

    for name in ("log", "finish", "summarise"):
        monkeypatch.setattr(broken, name, fail)
    assert given.update(Run.read(run)) == [0, 1, 10]
    given.training(2, {"loss": 0.1, "train_runtime": 1.0})
    given.conclude()
    assert len(session.rows) == 4
    [said] = caplog.messages
    assert said == "TensorBoard misses something (disk full); the local records are complete"
    write_record(run, make_record(20, MOVED, 40), MOVED)
    assert Publisher(run, [broken]).update(Run.read(run)) == []
    never = TensorBoard()
    monkeypatch.setattr(never, "start", fail)
    assert Publisher.start(run, [never]) is None


class Slow(FakeMirror):
    """Takes one row; then it has none of the next until somebody waits for it."""

    room, patient = 1, False

    def has_room(self, wait: float = 0) -> bool:
        self.room += self.patient and wait > 0
        return self.room > 0

    def log(self, *how: Any) -> None:
        self.room -= 1
        super().log(*how)


def test_one_that_is_behind_gets_the_rest_later(run: Path, caplog: Any) -> None:
    """No training waits, and no row is kept in memory; the end of the training waits a little."""
    slow, given = Slow(run), publisher(run, TensorBoard())
    given.mirrors += to_wandb(run, slow).mirrors
    assert given.update(Run.read(run)) == [0, 1, 10]
    given.training(2, {"loss": 0.1, "train_runtime": 1.0})
    assert [row["heads/step"] for row in slow.rows] == [0]
    assert slow.summary == {"train_runtime": 1.0}
    slow.room = 1
    assert given.update(Run.read(run)) == [1]
    slow.patient = True
    given.conclude()
    assert [*map(len, (slow.rows, caplog.messages))] == [3, 0]
    session = Slow(run)
    given = to_wandb(run, session)
    write_record(run, make_record(20, MOVED, 40), MOVED)
    write_record(run, make_record(30, MOVED, 40), MOVED)
    with pytest.raises(ValueError, match="W&B has taken no row for 1800 seconds and misses 1;"):
        given.update(Run.read(run), strict=True)
    given.conclude(exit_code=1)
    [said] = caplog.messages
    assert said.startswith("W&B (it is far behind) may not have 1 of the rows of this run;")


def names(*how: Any, **more: Any) -> list[str]:
    return [mirror.name for mirror in open_mirrors(*how, **more)]


def test_which_loggers_a_run_has(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert names() == ["wandb"]  # it is open
    assert names(["tensorboard", "wandb"]) == ["tensorboard", "wandb"]
    assert names(None, "none") == names("wandb", []) == []
    monkeypatch.setattr(session, "disabled", True)
    assert names() == names("none") == names([]) == []
    assert names(["wandb", "mlflow"]) == []  # none is open, and auto opens none
    assert "no run of it is open" in caplog.messages[-1]
    [own] = open_mirrors("none", "wandb")
    assert isinstance(own, WandbRun)
    [own] = open_mirrors(logger=["tensorboard"], adopt=False)
    assert own.training
    [shared] = open_mirrors("tensorboard")
    assert not shared.training


@pytest.mark.parametrize(
    ("logger", "what"),
    [
        ("wand", "there is no 'wand'; did you mean wandb?"),
        (["tensorboard", "none"], "'none' stands by itself"),
        ("trackio", r"trackio is not installed; pip install 'headlab\[trackio\]'"),
    ],
)
def test_a_logger_that_can_not_be(logger: Any, what: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(mirrors, "is_installed", lambda name: False)
    with pytest.raises(ValueError, match=what):
        open_mirrors(logger=logger)


def test_a_logger_of_the_trainers_that_is_not_installed(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(mirrors, "is_installed", lambda name: False)
    assert names(["tensorboard"]) == []
    assert "pip install 'headlab[tensorboard]'" in caplog.text


def test_the_map_as_a_table(run: Path) -> None:
    """A row a head; of too many, the most important."""
    point = Run.read(run).points[-1]
    rows = map_rows(point)
    assert len(rows) == point.record.importance.numel()
    assert rows[5][:3] == [10, *divmod(5, point.record.graph.n_heads)]
    called = [row[5] for row in rows].count("emergent")
    assert called == int(point.change.called["emergent"].sum()) > 0
    few = map_rows(point, 3)
    strongest = sorted((abs(row[3]) for row in rows), reverse=True)[:3]
    assert sorted((abs(row[3]) for row in few), reverse=True) == strongest
    assert few == sorted(few)


def test_what_hangs_is_left() -> None:
    with pytest.raises(TimeoutError, match="a call has not ended in 0.01 seconds"):
        within(0.01, lambda: __import__("time").sleep(0.5), "a call")
    assert within(5, lambda: 3, "a call") == 3
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"], "a call")

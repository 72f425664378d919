"""The process in which W&B works, and how long anyone waits for it."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from analysis.reporting import wandb_mirror
from analysis.reporting.wandb_mirror import WandbMirror, run_id, silent_server
from analysis.reporting.wandb_worker import serve, table


def test_all_who_ask_for_the_id_of_a_run_get_the_same(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: run_id(tmp_path, "my run"), range(64)))
    assert len(found) == 1
    assert re.fullmatch(r"my-run-[0-9a-f]{8}", found.pop())
    assert [path.name for path in tmp_path.iterdir()] == ["wandb-id"]


class FakeRun(types.SimpleNamespace):
    """A run of W&B that refuses tables, or values of some rows."""

    def log(self, row: dict[str, Any]) -> None:
        if any(isinstance(value, tuple) for value in row.values()):
            raise OSError("the table can't be uploaded")
        if row.get("bad"):
            raise ValueError("no such value")
        self.rows.append(row)


def served(monkeypatch: pytest.MonkeyPatch, *messages: dict[str, Any]) -> tuple[FakeRun, list[Any]]:
    run = FakeRun(
        rows=[],
        dir="d",
        offline=True,
        starting_step=0,
        entity="us",
        project="p",
        summary={},
        config=types.SimpleNamespace(update=lambda *a, **k: None),
        define_metric=lambda *a, **k: None,
        finish=lambda exit_code: codes.append(exit_code),
    )
    codes: list[Any] = []
    fake = types.SimpleNamespace(
        Settings=lambda **k: k,
        init=lambda **k: run,
        Table=lambda titles, rows: (titles, rows),
        Image=lambda picture: picture.size,
        teardown=lambda code: None,
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    how = dict.fromkeys(("directory", "project", "name", "id", "mode", "config", "program"), "x")
    lines = [{**how, "pid": 1, "patience": 1}, *messages]
    replies = io.StringIO()
    serve(io.StringIO("".join(json.dumps(line) + "\n" for line in lines)), replies)
    assert json.loads(replies.getvalue().splitlines()[-1]) == {"finished": True}
    return run, codes


def test_a_table_that_fails_costs_no_other_value(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"heads/table": [["a"], [["1"]]]}
    run, codes = served(
        monkeypatch,
        {"row": {"heads/step": 1, "x": 0.5}, "tables": table},
        {"row": {"bad": 1}},
        {"row": {"heads/step": 2}},
        {"summary": {"train_loss": 1.0}},
        {"finish": 0},
    )
    assert run.rows == [{"heads/step": 1, "x": 0.5}, {"heads/step": 2}]
    assert run.summary == {"train_loss": 1.0}
    assert codes == [0]


def test_a_table_is_the_one_that_wandb_makes_of_all_its_rows() -> None:
    import wandb

    rows = [[0, "L0H0", 0.5], [1, "L0H1", 1.5], [2, None, 2], [3, "L0H3", 0.1]]
    for there in (rows, rows[:2], rows[:1], []):
        assert table(["step", "head", "value"], there) == wandb.Table(
            ["step", "head", "value"], there
        )
    with pytest.raises(ValueError, match="expects 2 columns"):
        table(["step", "head"], [[0, "L0H0"], [1, "L0H1", 1.5]])


def test_a_run_that_was_killed_ends_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.Timer", lambda *a: types.SimpleNamespace(start=lambda: None))
    run, codes = served(monkeypatch, {"row": {"x": 1}})
    assert (run.rows, codes) == ([{"x": 1}], [1])


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts a script in the place of the process of W&B."""

    def put(script: str) -> None:
        path = tmp_path / "worker.py"
        path.write_text(f"import json, sys, time\nsys.stdin.readline()\n{script}\n")
        monkeypatch.setattr(wandb_mirror, "WORKER", path)

    monkeypatch.setattr(wandb_mirror, "ANSWER", 0.2)
    return put


START = 'print(json.dumps({"started": {"files": "a/b", "offline": True, "starting_step": 0}}))\n'
FLUSH = "sys.stdout.flush()\n"


def begin(tmp_path: Path) -> WandbMirror:
    return WandbMirror.begin(tmp_path / "r", "r", "p", "offline", {"a": Path("x")})


def test_a_process_that_hangs_or_fails_at_its_start(worker, tmp_path: Path, monkeypatch) -> None:
    worker("time.sleep(60)")
    began = time.monotonic()
    with monkeypatch.context() as short, pytest.raises(ValueError, match="it has not started"):
        short.setattr(wandb_mirror, "START", 0.5)
        begin(tmp_path)
    worker('print(json.dumps({"failed": "no key"}))')
    with pytest.raises(ValueError, match="no key"):
        begin(tmp_path)
    worker("sys.exit(3)")
    with pytest.raises(ValueError, match="its process ended"):
        begin(tmp_path)
    assert time.monotonic() - began < 10


def test_a_process_that_reads_nothing_holds_nobody_up(worker, tmp_path: Path, monkeypatch) -> None:
    """However much it is given; and its end has an end."""
    worker(START + FLUSH + "time.sleep(60)")
    monkeypatch.setattr(wandb_mirror, "BEHIND", 1_000_000)
    mirror = begin(tmp_path)
    began = time.monotonic()
    for _ in range(20):
        mirror.log({"x": "y" * 100_000})
    assert mirror.is_alive
    assert not mirror.has_room()  # whoever asks knows, and keeps the rest where it is
    assert not mirror.finish(limit=0.3)
    assert time.monotonic() - began < 5
    assert "has not finished" in mirror.reason
    assert not mirror.is_alive
    assert mirror.has_room(60)  # nobody waits for one that has ended


def test_what_a_process_says_as_it_ends_counts(worker, tmp_path: Path) -> None:
    worker(START + FLUSH + 'print(json.dumps({"finished": True}))')
    mirror = begin(tmp_path)
    mirror._process.wait()
    assert mirror.finish()
    worker(START + FLUSH + 'print(json.dumps({"failed": "connection lost"}))')
    mirror = begin(tmp_path)
    mirror._process.wait()
    assert not mirror.finish()
    assert mirror.reason == "connection lost"


def test_a_server_that_does_not_answer_is_no_server(
    worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker(START + FLUSH + "sys.stdin.read()")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        assert silent_server() == "timed out"
        mirror = WandbMirror.start(tmp_path / "r", "r", "p", "online", {})
    assert mirror is not None and mirror.mode == "offline"
    mirror.end()
    [said] = caplog.messages
    assert "timed out" in said and f"headlab publish run={tmp_path / 'r'}" in said
    assert silent_server() is not None  # nobody listens
    monkeypatch.setenv("WANDB_BASE_URL", "no address")
    assert silent_server() is not None


def test_a_wandb_that_does_not_start_is_said(worker, tmp_path: Path, caplog) -> None:
    worker("sys.exit(1)")
    assert WandbMirror.start(tmp_path / "r", "r", "p", "offline", {}) is None
    assert "W&B is off for this run" in caplog.text


def test_the_process_loads_nothing_of_the_project() -> None:
    script = "import sys; import wandb_worker; print([m for m in sys.modules if 'analysis' in m])"
    where = Path(wandb_mirror.__file__).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=where, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_client_knows_the_settings_that_it_is_given() -> None:
    """One of a private name that is gone would be left out, and its file would lag its server."""
    import wandb

    fields = wandb.Settings.model_fields
    assert {"x_transaction_log_flush_interval", "x_stats_pid", "init_timeout"} <= fields.keys()

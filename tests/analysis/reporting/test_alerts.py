"""Rules over rows: what they compare, that each alerts once while it holds, and who is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from analysis.records.evaluations import write_evaluation
from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from analysis.reporting import webhook
from analysis.reporting.alerts import NAMES, WITH_ENDS, Alarm, Alerts, Rule
from analysis.reporting.rows import head_values
from analysis.reporting.webhook import check_url, send
from analysis.trajectories.run import Run
from tests.support.planted import World, make_record

BASE, MOVED = World(4, changed=10, factor=100.0, noise=0.02).scores(8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunFile("r", "sft", "loss").write(tmp_path / "r")
    for step, scores in ((0, BASE), (10, MOVED), (20, MOVED)):
        write_record(tmp_path / "r", make_record(step, scores, 40), scores)
    write_evaluation(tmp_path / "r", 10, {"pass_at_1": 0.1, "low": 0.0, "high": 0.2})
    return tmp_path / "r"


def test_every_name_is_a_value_of_some_row(run: Path) -> None:
    rows = head_values(Run.read(run).points)
    keys = {name: key for name, key in NAMES.items() if not key.startswith("eval/")}
    # of two checkpoints, of a base whose distributions are stored, of pairs in halves, of a mixture
    # of experts, of a base whose heads are kept
    elsewhere = {"excess_turnover", "kl", "metric_gap", "routing", "changed", "called_changed"}
    assert {name for name, key in keys.items() if key not in rows} <= elsewhere
    with_ends = {f"{key}/lo" for key in WITH_ENDS.values() if key in rows}
    assert with_ends - rows.keys() <= {"eval/held_out/pass@1/lo"}


@pytest.mark.parametrize(
    ("text", "key", "holding"),
    [
        ("called_emergent>=5", "heads/emergent/called", 5.0),
        ("faithfulness < 0.3", "circuit/faithfulness", 0.29),
        ("faithfulness/hi<0.3", "circuit/faithfulness/hi", 0.1),
        ("gap>0.1", "circuit/completeness_gap", 0.2),
        ("circuit/faithfulness/lo<=1e-3", "circuit/faithfulness/lo", 0.001),
        ("eval/math500/pass@1<0.5", "eval/math500/pass@1", 0.4),
        ("head/L05H03>-0.5", "head/L05H03", 0.0),
        ("routing/hi>0.5", "routing/changed/hi", 0.6),
        ("changed/lo>=1", "heads/changed/lo", 1.0),
        ("heads/changed/retained>0", "heads/changed/retained", 1.0),
        ("routing/changed/L03/lo>0.5", "routing/changed/L03/lo", 0.6),
        ("routing/unused/L03>2", "routing/unused/L03", 3.0),
        ("heads/pruned/null_hi>2", "heads/pruned/null_hi", 3.0),
    ],
)
def test_rules(text: str, key: str, holding: float) -> None:
    rule = Rule.parse(text)
    assert rule.key == key
    assert rule.holds(holding)
    assert not rule.holds(10.0 if "<" in rule.sign else -10.0)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("faithfullness<0.3", "there is no value 'faithfullness'.*did you mean faithfulness?"),
        ("faithfulness/high<0.3", "there is no value 'faithfulness/high'"),
        ("gap/hi<0.3", "gap has no interval"),
        ("heads/emergent/called/lo>1", "there is no value"),
        ("faithfulness=0.3", "is no rule such as"),
        ("faithfulness<", "is no rule such as"),
        ("faithfulness<<1", "is no rule such as"),
        ("faithfulness<nan", "'nan' in .* is no number"),
        ("faithfulness<a", "'a' in .* is no number"),
        ("", "is no rule such as"),
    ],
)
def test_what_is_no_rule(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"alerts: .*{what}"):
        Rule.parse(text)


def test_a_rule_alerts_once_while_it_holds() -> None:
    alerts = Alerts(["emergent>=3", "emergent/lo>=3"])
    key = "heads/emergent"
    told = []
    for step, value in enumerate([2, 3, 4, float("nan"), 5, 2, 3]):
        told += [(a.step, a.rule) for a in alerts.check(step, {key: value, f"{key}/lo": value - 2})]
    told += alerts.check(9, {})
    assert told == [(1, "emergent>=3"), (4, "emergent/lo>=3"), (6, "emergent>=3")]


class Loggers:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def alert(self, title: str, text: str) -> None:
        self.told.append((title, text))


def test_an_alarm(run: Path, caplog: Any) -> None:
    """It tells of each alert once, in this process and after it was started again."""
    loggers = Loggers()
    alarm = Alarm(run, ["called_emergent>=1", "pass@1<0.2", "jaccard>2"])
    [first, second] = alarm.look(Run.read(run), loggers)  # type: ignore[arg-type]
    assert (first.rule, first.step, second.rule, second.step) == (
        *("called_emergent>=1", 10),
        *("pass@1<0.2", 10),
    )
    assert (second.low, second.high) == (0.0, 0.2)
    text = "r: eval/held_out/pass@1 is 0.1 [0, 0.2] at step 10 (rule pass@1<0.2)"
    assert loggers.told[1] == ("headlab: pass@1<0.2", text)
    assert f"alert: {text}" in caplog.messages
    write_record(run, make_record(30, MOVED, 40), MOVED)
    assert alarm.look(Run.read(run)) == []
    for step, share in ((20, 0.5), (30, 0.1)):  # evaluated later than tracked
        write_evaluation(run, step, {"pass_at_1": share, "low": 0.0, "high": 0.9})
    assert [alert.step for alert in alarm.look(Run.read(run))] == [30]
    (run / "alerts.jsonl").write_text((run / "alerts.jsonl").read_text() + '{"rule')
    assert Alarm(run, ["called_emergent>=1", "pass@1<0.2"]).look(Run.read(run)) == []
    assert [a.step for a in Alarm(run, ["called_emergent>0"]).look(Run.read(run))] == [10]


@pytest.fixture
def server() -> Iterator[Any]:
    class Handler(BaseHTTPRequestHandler):
        got: list[Any] = []
        status = 200

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.got.append((self.path, json.loads(content)))
            self.send_response(self.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *parts: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    Handler.url = f"http://127.0.0.1:{http.server_port}/services/SECRET?key=SECRET"  # type: ignore[attr-defined]
    yield Handler
    http.shutdown()
    http.server_close()


def test_a_webhook_is_told(run: Path, server: Any, caplog: Any) -> None:
    Alarm(run, ["called_emergent>=1"], server.url).look(Run.read(run))
    [(path, content)] = server.got
    assert path == "/services/SECRET?key=SECRET"
    assert (content["run"], content["rule"], content["step"]) == ("r", "called_emergent>=1", 10)
    assert content["text"] == content["content"]
    assert "SECRET" not in caplog.text
    assert all("SECRET" not in file.read_text() for file in run.glob("*.json*"))


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_a_webhook_that_refuses(status: int, server: Any, caplog: Any) -> None:
    """Or sends elsewhere, which is not followed: a line, without what is secret."""
    server.status = status
    send(server.url, {"a": 1})
    assert len(server.got) == 1
    assert caplog.messages == [f"the webhook at 127.0.0.1 got no alert: HTTP status {status}"]


def test_a_webhook_that_is_not_there(monkeypatch: Any, caplog: Any) -> None:
    send("http://127.0.0.1:9/SECRET", {"a": 1})
    monkeypatch.setattr(webhook, "LIMIT", 0.02)
    monkeypatch.setattr(webhook, "_post", lambda url, content: threading.Event().wait(1))
    send("http://127.0.0.1:9/SECRET", {"a": 1})
    assert "ConnectionRefusedError" in caplog.messages[0]
    assert "has not ended" in caplog.messages[1]
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    "url",
    ["ftp://a/SECRET", "file:///SECRET", "SECRET", "http://", "http://a b/SECRET", "http://a:x/"],
)
def test_what_is_no_webhook(url: str) -> None:
    with pytest.raises(ValueError, match="is no http") as error:
        check_url(url)
    assert "SECRET" not in str(error.value)

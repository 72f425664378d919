"""A training of headlab's own with TensorBoard, an alert that stops it, and a webhook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.events import steps_in
from tests.support.places import ROOT
from tests.support.runs import assert_equal_records, small

pytestmark = pytest.mark.real

LIMIT = 240  # seconds


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *parts: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/SECRET", got
    http.shutdown()
    http.server_close()


def train(place: Path, model: Path, url: str, *more: str) -> tuple[int, str]:
    words = small("sft", model, place / "r", "name=r", *more)
    words += ["train.args.max_steps=8", "train.args.save_steps=2"]
    done = subprocess.run(
        [sys.executable, "-m", "train.sft", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOOK": url},
        cwd=place,
        text=True,
        capture_output=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout + done.stderr


def test_an_alert_stops_a_run_that_goes_on_later(
    tmp_path: Path, tiny_dir: Path, hook: tuple[str, list[Any]]
) -> None:
    """It is told of once, and the run that goes on is the one that was never stopped."""
    url, got = hook
    words = ["logger.to=[tensorboard]", "alerts.webhook=HOOK", "alerts.halt=true"]
    words.append('alerts.rules=["circuit/edges>=0","gap<-1"]')
    code, out = train(tmp_path, tiny_dir, url, *words)
    assert code == 143, out
    assert "alert: r: circuit/edges is" in out
    assert "asked to stop: step 1 is saved" in out
    assert [alert["rule"] for alert in got] == ["circuit/edges>=0"]
    code, out = train(tmp_path, tiny_dir, url, *words, "resume=auto")
    assert code == 0, out
    assert len(got) == 1
    there = steps_in(tmp_path / "r" / "runs" / "headlab")
    assert there["heads/emergent"] == there["heads/map"] == [0, 2, 4, 6, 8]
    assert there["train/loss"] == list(range(1, 9))
    (tmp_path / "plain").mkdir()
    code, out = train(tmp_path / "plain", tiny_dir, url)
    assert code == 0, out
    weights = "checkpoint-8/model.safetensors"
    plain = tmp_path / "plain" / "r"
    assert (tmp_path / "r" / weights).read_bytes() == (plain / weights).read_bytes()
    assert_equal_records(tmp_path / "r", plain, exact=True)
    for file in (tmp_path / "r").rglob("*"):
        assert not file.is_file() or b"SECRET" not in file.read_bytes(), file

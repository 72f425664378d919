"""Against trackio itself (pip install 'headlab[trackio]'): its database, its media, its page."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from analysis.records.training_log import append_metrics
from tests.support.places import ROOT
from tests.support.planted import World, make_record

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("trackio") is None, reason="pip install 'headlab[trackio]'"
    ),
]
BASE, MOVED = World(4, changed=10, factor=100.0, noise=0.02).scores(8)
LIMIT = 120  # seconds

ADOPTED = """
import sys, trackio
from pathlib import Path
from analysis.reporting.mirror import open_mirrors
from analysis.reporting.publish import Publisher
from analysis.trajectories.run import Run
run = Path(sys.argv[1])
trackio.init(project="theirs", name="mine", resume="allow", embed=False)
trackio.log({"train/loss": 1.0, "train/global_step": 5})
publisher = Publisher.start(run, open_mirrors("trackio"))
print(publisher.update(Run.read(run)))
publisher.alert("headlab: a rule", "it holds")
publisher.conclude()
trackio.log({"train/loss": 0.5, "train/global_step": 10})
trackio.finish()
"""
PAGE = """
import sys, trackio
print("PAGE", trackio.show(project="mine", open_browser=False, block_thread=False)[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunFile("r", "sft", "loss").write(tmp_path / "r")
    for step, scores in ((0, BASE), (10, MOVED)):
        write_record(tmp_path / "r", make_record(step, scores, 40), scores)
    append_metrics(tmp_path / "r", 1, {"loss": 1.0})
    return tmp_path / "r"


def environment(run: Path) -> dict[str, str]:
    place = {"TRACKIO_DIR": str(run.parent / "trackio"), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **place, "HF_HUB_OFFLINE": "1"}


def python(run: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        env=environment(run),
        cwd=run.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(run: Path, project: str) -> list[tuple[int, dict[str, object]]]:
    """Step and values of all rows of a project, in order."""
    with sqlite3.connect(run.parent / "trackio" / f"{project}.db") as database:
        found = database.execute("select step, metrics from metrics order by id").fetchall()
    return [(step, json.loads(values)) for step, values in found]


def test_rows_media_and_page(run: Path) -> None:
    publish = ("-m", "analysis", "publish", f"run={run}", "to=trackio", "project=mine")
    assert "logged 3 rows, steps 0 to 10" in python(run, *publish)
    assert python(run, *publish).endswith("nothing is missing\n")
    there = rows(run, "mine")
    assert [step for step, _ in there] == [0, 1, 10]
    last = there[-1][1]
    assert last["heads/step"] == 10 and "heads/emergent/called" in last
    picture = last["heads/map"]
    assert isinstance(picture, dict) and picture["_type"] == "trackio.image"
    assert len(list((run.parent / "trackio" / "media").rglob("*.png"))) == 4
    table = last["heads/map_table"]
    assert isinstance(table, dict) and table["_value"][0]["layer"] == 0
    write_record(run, make_record(20, MOVED, 40), MOVED)
    assert "logged 1 rows, steps 20 to 20" in python(run, *publish)
    assert [step for step, _ in rows(run, "mine")] == [0, 1, 10, 20]
    page = subprocess.Popen(
        [sys.executable, "-c", PAGE],
        env=environment(run),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert page.stdout is not None
        until = time.monotonic() + LIMIT
        while not (line := page.stdout.readline()).startswith("PAGE "):
            assert page.poll() is None and time.monotonic() < until
        address = line.split()[1]
        with urllib.request.urlopen(address, timeout=LIMIT) as answer:
            assert answer.status == 200 and b"<html" in answer.read().lower()
    finally:
        page.kill()
        page.wait()


def test_the_run_of_a_trainer(run: Path) -> None:
    """Its own rows count on, heads have theirs, and a second process gives none again."""
    out = python(run, "-c", ADOPTED, str(run))
    assert "[0, 10]" in out
    there = rows(run, "theirs")
    assert [values.get("train/global_step") for _, values in there] == [5, None, None, 10]
    assert [values.get("heads/step") for _, values in there] == [None, 0, 10, None]
    assert [step for step, _ in there] == [0, 1, 2, 3]
    assert "[]" in python(run, "-c", ADOPTED, str(run))
    assert len(rows(run, "theirs")) == 6

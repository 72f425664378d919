"""Against W&B's own client and a server on loopback: the view of a project, alerts, and the run
that a trainer has open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from tests.real.wandb_server import Server
from tests.support.places import ROOT
from tests.support.planted import World, make_record

pytestmark = pytest.mark.real

BASE, MOVED = World(4, changed=10, factor=100.0, noise=0.02).scores(8)
LIMIT = 120  # seconds

TRAINER = """
import logging, sys, wandb
from pathlib import Path
from analysis.reporting.alerts import Alarm
from analysis.reporting.mirror import open_mirrors
from analysis.reporting.publish import Publisher
from analysis.trajectories.run import Run
logging.basicConfig(level=logging.INFO, format="%(message)s")
run = Path(sys.argv[1])
wandb.init(project="headlab", id="theirs", resume="allow")
wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
wandb.log({"train/loss": 1.0, "train/global_step": 5})
publisher = Publisher.start(run, open_mirrors(["wandb"]))
print(publisher.update(Run.read(run)), flush=True)
Alarm(run, ["called_emergent>=1"]).look(Run.read(run), publisher)
wandb.log({"train/loss": 0.5, "train/global_step": 10})
publisher.conclude()
wandb.finish()
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunFile("r", "sft", "loss").write(tmp_path / "r")
    for step, scores in ((0, BASE), (10, MOVED)):
        write_record(tmp_path / "r", make_record(step, scores, 40), scores)
    return tmp_path / "r"


def python(run: Path, server: Server, *words: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, *words],
        env={**own, **server.environment, "PYTHONPATH": str(ROOT)},
        cwd=run.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_view_is_made_once(run: Path, server: Server) -> None:
    """And made anew by its run, until a person has changed it; publish makes one that is gone."""
    publish = ("-m", "analysis", "publish", f"run={run}")
    out = python(run, server, *publish)
    [(name, view)] = server.views.items()
    assert view["displayName"] == "headlab: headlab"
    assert "head/L" in view["spec"], out
    write_record(run, make_record(20, BASE, 40), BASE)
    python(run, server, *publish)
    assert list(server.views) == [name]
    mine = view["spec"].replace("emergent", "mine")
    server.views[name]["spec"] = mine
    python(run, server, *publish, "workspace=true")
    assert server.views[name]["spec"] == mine
    server.views.clear()
    python(run, server, *publish, "workspace=true")
    assert list(server.views) == [name]
    server.views.clear()
    write_record(run, make_record(30, BASE, 40), BASE)
    python(run, server, *publish, "workspace=false")
    assert not server.views


def test_a_server_without_views(run: Path, server: Server) -> None:
    """Its rows count none the less."""
    answer = server.answer

    def without(path: str, content: bytes) -> dict[str, object]:
        if b"allViews" in content or b"upsertView" in content:
            return {"errors": [{"message": "no such field"}]}
        return answer(path, content)

    server.answer = without  # type: ignore[method-assign]
    assert "logged 2 rows" in python(run, server, "-m", "analysis", "publish", f"run={run}")
    assert server.named("heads/step") == [0, 10]


def test_the_run_of_a_trainer(run: Path, server: Server) -> None:
    """Rows of heads beside its own, an alert, a view; and in a run that goes on, no row twice."""
    out = python(run, server, "-c", TRAINER, str(run))
    assert "[0, 10]" in out
    assert server.named("heads/step") == [0, 10]
    assert server.named("train/loss") == [1.0, 0.5]
    assert [alert["title"] for alert in server.alerts] == ["headlab: called_emergent>=1"]
    assert len(server.views) == 1
    assert "[]" in python(run, server, "-c", TRAINER, str(run))
    assert server.named("heads/step") == [0, 10]
    assert len(server.alerts) == 1
    marks = server.named("headlab/row")
    assert [mark.split()[0] for mark in marks] == ["heads/0", "heads/10"]
    assert json.loads(next(iter(server.views.values()))["spec"])["section"]

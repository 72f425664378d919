"""The view of a W&B project: by the package's own models, and by a server that is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.records.evaluations import write_evaluation
from analysis.records.needed import Effect, Needed, Number, Right
from analysis.records.record_files import write_record
from analysis.records.run_file import RunFile
from analysis.reporting import wandb_view, workspace
from analysis.reporting.rows import head_values, needed_values
from analysis.reporting.wandb_view import View, is_wanted, moved_most
from analysis.trajectories.run import Run
from tests.support.planted import World, make_record

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")

BASE, MOVED = World(4, changed=10, factor=100.0, noise=0.02).scores(8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunFile("r", "sft", "loss").write(tmp_path / "r")
    for step, scores in ((0, BASE), (10, MOVED)):
        write_record(tmp_path / "r", make_record(step, scores, 40), scores)
    write_evaluation(tmp_path / "r", 10, {"pass_at_1": 0.1, "low": 0.0, "high": 0.2})
    return tmp_path / "r"


NUMBER = Number(1.5, 1.0, 2.0)
EFFECT = Effect(NUMBER, [0.25, 0.75], NUMBER, 0.5, Right(0.9, 0.4, [0.7, 0.9]))
NEEDED = Needed(10, "", "kl", "called_emergent", 2, ["L0H1"], now=EFFECT, base=EFFECT)
HOW: dict[str, Any] = {
    "entity": "us",
    "project": "headlab",
    "title": "headlab: headlab",
    "signal": "train/loss",
    "curves": ["head/L00H01"],
    "tasks": ["held_out", "math500"],
    "digest": None,
}


def test_the_view_is_one_that_the_package_reads(run: Path) -> None:
    """Written and read by its models, it is the same; all that it shows is in rows of a run."""
    from wandb_workspaces.workspaces import Workspace, internal

    view = workspace.build(HOW)
    spec = workspace.spec_of(view)
    model = view._to_model()
    read = internal.WorkspaceViewspec.model_validate_json(spec)
    again = Workspace._from_model(model.model_copy(update={"spec": read}))
    assert [section.name for section in again.sections] == [
        *("Heads", "Circuit", "Head curves", "Are they needed?", "Map", "Evaluation")
    ]
    assert workspace.digest_of(workspace.spec_of(again)) == workspace.digest_of(spec)
    emergent = again.sections[0].panels[0]
    assert emergent.x.name == "heads/step"
    assert [key.name for key in emergent.y] == [
        f"heads/emergent{end}" for end in ("", "/lo", "/hi", "/called")
    ]
    assert again.sections[4].panels[0].media_keys == ["heads/map"]
    assert json.loads(spec)["section"]["settings"]["shouldAutoGeneratePanels"] is False
    rows = head_values(Run.read(run).points)
    panels = [panel for section in again.sections[:3] for panel in section.panels]
    shown = {key.name for panel in panels for key in panel.y if panel.x.name == "heads/step"}
    unmeasured = ("circuit/kl_from_base", "circuit/metric_gap", "heads/changed")  # in this run
    assert not {key for key in shown - rows.keys() if not key.startswith(unmeasured)}
    bars = {key.name for panel in again.sections[3].panels for key in panel.metrics}
    assert bars <= needed_values(NEEDED).keys()


def test_what_is_logged_of_heads_that_are_taken_out() -> None:
    found = needed_values(NEEDED)
    assert found["needed/heads"] == 1 and found["needed/p"] == 0.5
    for name, value in (("change", 1.5), ("change/lo", 1.0), ("random", 0.5), ("random/hi", 0.75)):
        assert found[f"needed/{name}"] == found[f"needed/base/{name}"] == value
    assert found["needed/right_without"] == 0.4 and found["needed/right_random"] == 0.8
    none = needed_values(Needed(10, "", "kl", "called_emergent", 0, [], note="no head"))
    assert none == {"needed/heads": 0}
    alone = Needed(10, "", "kl", "given", 1, ["L0H1"], now=Effect(NUMBER, [], None, None, None))
    assert "needed/change" in needed_values(alone) and "needed/p" not in needed_values(alone)


def test_a_training_without_a_signal_or_evaluations() -> None:
    found = workspace.sections(None, [], [])
    assert [len(section.panels) for section in found] == [4, 8, 0, 4, 3, 0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Views by name, in the place of W&B's server."""
    from wandb_workspaces.workspaces import internal

    views: dict[str, Any] = {}

    def ask(api: object, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" not in query:
            there = views.get(given["viewName"])
            return {"project": {"allViews": {"edges": [{"node": there}] if there else []}}}
        view = {"id": given["name"], "name": given["name"], "spec": given["spec"]}
        views[given["name"]] = {**view, "displayName": given["displayName"]}
        return {"upsertView": {"view": view, "inserted": "id" not in given}}

    monkeypatch.setattr(internal, "execute_graphql", ask)
    monkeypatch.setattr(internal.wandb, "Api", lambda: None)
    return views


def test_a_view_is_made_once_and_is_a_persons_from_then_on(server: dict[str, Any]) -> None:
    """Who made it may make it anew, until somebody has changed it; another run leaves it."""
    first = workspace.save(HOW)
    assert first["did"] == "made"
    [(name, view)] = server.items()
    assert view["displayName"] == "headlab: headlab"
    assert name == f"nw-{workspace.name_of('headlab')}-v"
    other = {**HOW, "curves": ["head/L00H02"]}
    assert workspace.save(other) == {"did": "left", "digest": None}
    second = workspace.save({**other, "digest": first["digest"]})
    assert second["did"] == "updated" and second["digest"] != first["digest"]
    assert "head/L00H02" in server[name]["spec"]
    mine = server[name]["spec"].replace("emergent", "mine")
    server[name]["spec"] = mine
    assert workspace.save({**other, "digest": second["digest"]})["did"] == "left"
    assert server[name]["spec"] == mine
    assert workspace.save({**HOW, "project": "p"})["did"] == "made"


def test_heads_that_moved_most(run: Path) -> None:
    points = Run.read(run).points
    found = moved_most(points, 200)
    assert len(found) == 10
    importance = [head_values(points[:n]) for n in (1, 2)]
    spans = {k: abs(importance[1][k] - v) for k, v in importance[0].items() if "head/L" in k}
    assert spans[found[0]] == max(spans.values())
    assert moved_most(points, 0) == moved_most([], 200) == []


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a script in the place of the process that saves a view."""

    def put(text: str) -> None:
        path = tmp_path / "script.py"
        path.write_text(f"import json, sys, time\nhow = json.load(sys.stdin)\n{text}\n")
        monkeypatch.setattr(wandb_view, "SCRIPT", path)

    return put


ECHO = 'print(json.dumps({"did": "made", "digest": str(how["digest"]) + "x"}))'


def test_a_view_is_saved_beside_the_run_and_at_its_end(run: Path, script: Any) -> None:
    script(ECHO)
    view = View(run, "us", "p")
    view.begin(Run.read(run))
    assert view.end(Run.read(run)) == "made"
    saved = json.loads((run / "wandb-view.json").read_text())
    assert saved == {"project": "us/p", "digest": "Nonexx"}
    assert View(run, "us", "other").end(Run.read(run)) == "made"  # nothing of ours is there


@pytest.mark.parametrize("text", ["time.sleep(60)", "sys.exit(1)", "print('{')", "print()"])
def test_a_process_that_fails_or_hangs(text: str, run: Path, script: Any) -> None:
    script(text)
    view = View(run, "us", "p")
    assert view.end(Run.read(run), 0.5) == ""
    assert view.reason
    assert not (run / "wandb-view.json").exists()


def test_when_a_view_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_wanted(None, "online") and is_wanted(True, "online")
    assert not (is_wanted(False, "online") or is_wanted(None, "offline"))
    monkeypatch.setattr(wandb_view, "find_spec", lambda name: None)
    assert not is_wanted(None, "online")
    with pytest.raises(ValueError, match=r"pip install 'headlab\[views\]'"):
        is_wanted(True, "online")


def test_the_script_answers_what_went_wrong(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError('broken')")
    done = subprocess.run(
        [sys.executable, str(wandb_view.SCRIPT)],
        input=json.dumps(HOW),
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"]

"""A run on the hub: one commit that holds what it is compared by, and nothing that is secret."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from analysis.cli import parse
from analysis.commands import compare, publish, report
from analysis.records.record_files import read_record
from analysis.records.secrets import tokens_in
from analysis.reporting import hub as runs_on_hub
from tests.real.hub_server import Hub, files_of
from tests.support.loopback_hub import loopback_hub
from tests.support.planted_runs import FINAL, make_run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "hub").mkdir()
    monkeypatch.chdir(tmp_path)
    with loopback_hub(tmp_path / "hub", tmp_path / "cache", monkeypatch, "hf_test") as hub:
        runs_on_hub.fetched.cache_clear()
        yield hub
        runs_on_hub.fetched.cache_clear()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with what it is not to give away."""
    run = make_run(tmp_path / "my-run", FINAL)
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"logger": {"api_key": "secret1"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for file in ("checkpoint-20/model.safetensors", "wandb/run.wandb", "locks/run/1", ".env"):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_text("secret2")
    return run


def send(run: Path, *more: str) -> None:
    publish.act(parse(publish.Options, [f"run={run}", "hub=org/heads", *more]))


def test_what_is_published_is_read_and_compared(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(run)
    assert hub.commits == ["my-run: heads at 3 checkpoints"]
    assert f"uploaded: {hub.url}/datasets/org/heads/commit/" in capsys.readouterr().out
    assert "datasets/org/heads" in hub.private
    place = hub.root / "datasets/org/heads/main"
    there = files_of(place)
    assert {"README.md", "run.json", "trajectory.json", "report.html", "figures/map.png"} <= {
        *there
    }
    assert not [f for f in there if f.startswith(("checkpoint", "wandb", "locks", ".env"))]
    held = b"".join((place / file).read_bytes() for file in there)
    assert b"secret1" not in held and b"secret2" not in held
    assert yaml.safe_load((place / "config.yaml").read_text())["logger"] == {
        "api_key": "<redacted>"
    }
    # read as the run here is
    found = runs_on_hub.fetched("hub:org/heads")
    mine, theirs = read_record(run, 20), read_record(found, 20)
    assert mine is not None and theirs is not None and mine.circuit.equal(theirs.circuit)
    words = ["a=hub:org/heads@10", f"b={run}", "cross=false", f"out={tmp_path}/c"]
    compare.act(parse(compare.Options, words))
    compared = json.loads((tmp_path / "c/comparison.json").read_text())
    assert "my-run@10" in json.dumps(compared) and "my-run@20" in json.dumps(compared)
    report.act(parse(report.Options, ["runs=hub:org/heads"]))
    assert (tmp_path / "report.html").is_file()


def test_a_card_says_what_was_measured_and_what_is_not_claimed(hub: Hub, run: Path) -> None:
    send(run)
    text = (hub.root / "datasets/org/heads/main/README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["pretty_name"] == "Attention heads of my-run" and "headlab" in head["tags"]
    assert "## What is not claimed" in text and "headlab compare a=hub:org/heads" in text
    assert "called: emergent" in text and "| fdr | 0.05 |" in text
    assert "![map](figures/map.png)" in text


def test_published_again_it_is_the_run_of_now(hub: Hub, run: Path) -> None:
    send(run, "private=false")
    assert not hub.private
    shutil.rmtree(run / "heads/step-000010")
    send(run)
    there = files_of(hub.root / "datasets/org/heads/main")
    assert len(hub.commits) == 2
    assert not any("step-000010" in file for file in there)
    assert any("step-000020" in file for file in there)


def test_what_cannot_be_published_or_read_is_one_line(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "a" * 34
    (run / "pairs.jsonl").write_text(json.dumps({"clean": f"use {token}"}) + "\n")
    with pytest.raises(ValueError, match=r"pairs.jsonl seems to hold a token \(hf_aaa\.\.\.\)"):
        send(run)
    assert not hub.commits
    (run / "pairs.jsonl").unlink()
    with pytest.raises(ValueError, match=r"a: the run hub:org/none can't be read: there is no"):
        words = ["a=hub:org/none", f"b={run}", "cross=false"]
        compare.act(parse(compare.Options, words))
    (hub.root / "datasets/org/other/main").mkdir(parents=True)
    (hub.root / "datasets/org/other/main/data.csv").write_text("a")
    with pytest.raises(ValueError, match="hub:org/other is no run: its data set holds no run.json"):
        runs_on_hub.fetched("hub:org/other")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        ValueError, match=r"does not take org/heads: status 401: set HF_TOKEN"
    ) as caught:
        send(run)
    assert "\n" not in str(caught.value)


def test_tokens() -> None:
    page = "<div class='task-list'>sk-learn hf_hub eos_token AKIA</div>"
    assert not tokens_in(page)
    for token in ("ghp_" + "a1" * 18, "AKIA" + "Z" * 16, "sk-proj-" + "a" * 40):
        assert tokens_in(f"key: {token}\n") == [token]

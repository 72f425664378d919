"""Revisions of a model on the hub as checkpoints: the hub's own client against a loopback hub."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from analysis.cli import parse
from analysis.commands.track import Options, act
from analysis.live import revisions
from analysis.live.revisions import expand, step_of
from analysis.records.record_files import read_records
from tests.real.hub_server import Hub
from tests.support.loopback_hub import forget, loopback_hub
from tests.support.models import random_pairs, tiny_model

QUICK = [
    *("tracking.resamples=10", "tracking.ig_steps=2", "wandb_mode=disabled", "device=cpu"),
    "poll=0.05",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """org/pythia at step0, step1, step512 and main, and org/olmo in two stages."""
    root = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate(("step0", "step1", "step512", "main")):
        tiny_model("qwen2", torch.float32, seed=seed).save_pretrained(root / "org/pythia" / name)
    for name in ("main", "stage1-step1000-tokens5B", "stage2-ingredient1-step1000-tokens3B"):
        shutil.copytree(root / "org/pythia/main", root / "org/olmo" / name)
    return root


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(revisions, "PAUSE", 0.01)
    root = shutil.copytree(published, tmp_path / "hub")
    random_pairs(4).save(tmp_path / "pairs.jsonl")
    with loopback_hub(root, tmp_path / "cache", monkeypatch) as hub:
        yield hub


def track(place: Path, *words: str) -> None:
    forget()
    given = [f"run={place}/run", f"pairs={place}/pairs.jsonl", *QUICK, *words]
    act(parse(Options, given))


def weights(place: Path) -> list[str]:
    """The revisions whose weights are in the cache."""
    return [file.name for file in (place / "cache").rglob("*.safetensors")]


def test_each_revision_is_there_as_long_as_it_is_measured(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What breaks off goes on; what has a record is not fetched again."""
    hub.cuts = 1
    track(tmp_path, "checkpoints=hub:org/pythia@step{0,1,512}")
    assert not hub.cuts
    records = read_records(tmp_path / "run")
    assert [record.step for record in records] == [0, 1, 512]
    origins = [record.origin["model"] for record in records]
    assert [origin["path"] for origin in origins] == [f"org/pythia@step{n}" for n in (0, 1, 512)]
    assert origins[1]["commit"] == hub.commit("org/pythia", "step1")
    assert len({origin["weights"] for origin in origins}) == 3
    assert not weights(tmp_path)
    blobs = [b for b in (tmp_path / "cache").rglob("blobs/*") if b.stat().st_size > 20_000]
    assert not blobs
    hub.asked.clear()
    track(tmp_path, "checkpoints=hub:org/pythia@step*", "keep=null")
    assert "3 revisions, 3 of them tracked already" in capsys.readouterr().out
    assert not any(path.endswith(".safetensors") for path in hub.asked)


def test_what_cannot_be_tracked_is_one_line(hub: Hub, tmp_path: Path) -> None:
    def line(*words: str) -> str:
        with pytest.raises(ValueError) as caught:
            track(tmp_path, *words)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert line("checkpoints=hub:org/olmo@*") == (
        "the revisions of org/olmo are of 2 kinds, whose steps count each from their own "
        "start (stage1-step*: stage1-step1000-tokens5B; stage2-ingredient1-step*: "
        "stage2-ingredient1-step1000-tokens3B); choose one, as hub:org/olmo@stage1-step*"
    )
    assert line("checkpoints=hub:org/olmo@stage1-*") == (
        "missing: base=...; the smallest step is org/olmo@stage1-step1000-tokens5B"
    )
    assert line("checkpoints=hub:org/pythia@step7") == (
        "org/pythia has no revision 'step7' on the hub; it has main, step0, step1, step512"
    )
    assert "names no revisions; give hub:org/pythia@step*" in line("checkpoints=hub:org/pythia")
    assert "tells a step" in line("checkpoints=hub:org/pythia@main")
    nothing = "does not list the revisions of org/none (there is no such repository, or"
    assert nothing in line("checkpoints=hub:org/none@*")
    hub.private.add("org/pythia")
    said = line("checkpoints=hub:org/pythia@step*")
    assert said.endswith("or it is private: set HF_TOKEN, or log in with `hf auth login`)")
    hub.private.clear()
    hub.broken = True
    assert "does not list the revisions" in line("checkpoints=hub:org/pythia@step*")
    assert not (tmp_path / "run").exists()


def test_what_the_cache_had_stays(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """keep=null leaves all; one revision that can't be read does not cost the others."""
    track(tmp_path, "checkpoints=hub:org/pythia@step{0,512}", "keep=null")
    assert len(weights(tmp_path)) == 2
    shutil.rmtree(tmp_path / "run")
    (hub.root / "org/pythia/step1/model.safetensors").unlink()
    (hub.root / "org/pythia/step1/pytorch_model.bin").write_bytes(b"weights")
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match=r"1 check.*: \[1\]"):
        track(tmp_path, "checkpoints=hub:org/pythia@step*")
    assert "step 1 can't be tracked" in caplog.text and "no weights in safetensors" in caplog.text
    assert [record.step for record in read_records(tmp_path / "run")] == [0, 512]
    assert len(weights(tmp_path)) == 2  # those of before
    assert not any(path.endswith(".bin") for path in hub.asked)


def test_a_download_that_breaks_off_each_time_is_one_line(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(tmp_path, "checkpoints=hub:org/pythia@step0")
    shutil.rmtree(hub.root / "org/pythia/step512")
    monkeypatch.setattr("analysis.models.hub.revisions", lambda name: ["step0", "step512"])
    with pytest.raises(ValueError, match=r"1 checkpoints could not be tracked: \[512\]"):
        track(tmp_path, "checkpoints=hub:org/pythia@step*")
    assert caplog.text.count("it is tried again") == 2
    assert "step 512 can't be tracked: org/pythia has no revision 'step512'" in caplog.text


def test_every_and_a_base_of_ones_own(hub: Hub, tmp_path: Path) -> None:
    for step in (2, 4, 5):
        shutil.copytree(hub.root / "org/pythia/step1", hub.root / f"org/pythia/step{step}")
    words = ["checkpoints=hub:org/pythia@step[1-9]*", "base=org/pythia@main", "every=4"]
    track(tmp_path, *words)
    assert [record.step for record in read_records(tmp_path / "run")] == [0, 4, 512]


@pytest.mark.parametrize(
    ("revision", "step"),
    [
        ("step1000", 1000),
        ("step1000-tokens4B", 1000),
        ("stage1-step1000-tokens5B", 1000),
        ("global_step_40", 40),
        ("checkpoint-40", 40),
        ("iter_0000040", 40),
        ("epoch1-step40", 40),
        ("epoch_3", 3),
        ("main", None),
        ("v1.0", None),
        ("stage2", None),
    ],
)
def test_steps_of_revisions(revision: str, step: int | None) -> None:
    assert step_of(revision) == step


def test_names_of_several_steps_and_braces() -> None:
    with pytest.raises(ValueError, match="'step1-step5' names several steps: 1, 5"):
        step_of("step1-step5")
    assert expand("a{0,1}{b,}") == ["a0b", "a0", "a1b", "a1"]

"""A model of the hub is one commit, wherever it is named, and whether or not the hub is there."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from analysis.models import hub
from analysis.models.loading import (
    adapter_base,
    fingerprint,
    load_config,
    load_model,
    load_tokenizer,
)
from analysis.models.provenance import describe, weight_hashes
from analysis.records.checkpoints import Base, Named, find_model
from tests.support.hub_cache import FakeHub
from tests.support.models import tiny_model


def weights(model: object) -> object:
    return weight_hashes(model)["weights"]  # type: ignore[arg-type]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_files: Path) -> FakeHub:
    """org/model at main and old, and org/adapter on its revision old."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path / "hub"
    models: dict[str, PreTrainedModel] = {}
    for seed, revision in enumerate(("main", "old")):
        models[revision] = tiny_model("qwen2", torch.float32, seed=seed)
        models[revision].save_pretrained(root / "org/model" / revision)
    for file in tiny_model_files.glob("tokenizer*"):
        (root / "org/model/old" / file.name).write_bytes(file.read_bytes())
    config = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    get_peft_model(models["old"], config).save_pretrained(root / "org/adapter/main")
    file = root / "org/adapter/main/adapter_config.json"
    named = {"base_model_name_or_path": "org/model", "revision": "old"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))
    return FakeHub(root, tmp_path / "cache", monkeypatch)


@pytest.mark.parametrize(
    ("text", "name", "revision", "is_hub"),
    [
        ("org/model", "org/model", None, True),
        ("org/model@step1000", "org/model", "step1000", True),
        ("org/model@refs/pr/1", "org/model", "refs/pr/1", True),
        ("gpt2@main", "gpt2", "main", True),
        ("/a/b@c", "/a/b", "c", False),
        ("./a@1", "./a", "1", False),
        ("~/a", "~/a", None, False),
    ],
)
def test_names(text: str, name: str, revision: str | None, is_hub: bool) -> None:
    assert hub.split(text) == (name, revision)
    assert hub.join(name, revision) == text
    assert hub.is_hub_name(text) == is_hub


def test_a_directory_with_an_at_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "a@b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.split("org/a@b") == ("org/a@b", None)
    assert hub.place("org/a@b") == Path("org/a@b")
    assert hub.commit_of("org/a@b") is None


def test_all_parts_of_a_model_are_of_its_revision(here: FakeHub) -> None:
    old, main = load_model("org/model@old", "float32"), load_model("org/model", "float32")
    expected = load_model(here.root / "org/model/old", "float32")
    assert weights(old) == weights(expected) != weights(main)
    commit = here.commit("org/model", "old")
    origin = describe(old, here.root)["model"]
    assert (origin["path"], origin["commit"]) == ("org/model@old", commit)
    assert fingerprint("org/model@old") == commit == hub.commit_of("org/model@old")
    assert len(load_tokenizer("org/model@old")) > 0  # main has none
    assert load_config("org/model@old").name_or_path == "org/model@old"
    assert "commit" not in describe(expected, here.root)["model"]


def test_an_adapter_of_the_hub_is_one_everywhere(here: FakeHub) -> None:
    """Its base is that which it names, at the revision that it names."""
    assert adapter_base("org/adapter") == "org/model@old"
    model = load_model("org/adapter", "float32")
    assert weights(model) == weights(load_model("org/model@old", "float32"))
    assert weight_hashes(model)["adapter"] is not None
    assert load_config("org/adapter").model_type == "qwen2"
    assert len(load_tokenizer("org/adapter")) > 0
    assert find_model("org/adapter") == Named("org/adapter")


def test_weights_are_fetched_only_where_they_are_needed(here: FakeHub) -> None:
    load_config("org/model@old")
    assert not list(hub.place("org/model@old").glob("*.safetensors"))
    load_model("org/model@old", "float32")
    assert list(hub.place("org/model@old").glob("*.safetensors"))
    assert here.asked == ["org/model@old"]  # once in a process


def test_the_cache_is_taken_where_the_hub_is_away(
    here: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    expected = weights(load_model("org/model@old", "float32"))
    here.away = True
    here.forget()
    assert weights(load_model("org/model@old", "float32")) == expected
    [said] = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert "nobody answers" in said and here.commit("org/model", "old")[:12] in said
    with pytest.raises(ValueError, match="'org/model' is neither a model directory here nor"):
        load_model("org/model", "float32")


def test_a_revision_that_is_not_there_is_named(here: FakeHub) -> None:
    with pytest.raises(ValueError, match="org/model has no revision 'step7' on the hub"):
        load_model("org/model@step7", "float32")


def test_a_run_stays_at_the_commit_it_began_with(here: FakeHub, tmp_path: Path) -> None:
    """Whatever its branch is now."""
    commit = here.commit("org/model", "old")
    base = Base("org/model", "float32", commit)
    assert base.pinned == f"org/model@{commit}"
    assert weights(base.load(None)) == weights(load_model("org/model@old", "float32"))
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "base.json").write_text(json.dumps(vars(base)))
    named = find_model(f"{tmp_path}/r@0")
    assert (named.path, named.step, named.label) == (base.pinned, 0, "r@0")
    old = {"path": "m", "dtype": "float32"}  # of an earlier version
    (tmp_path / "r" / "base.json").write_text(json.dumps(old))
    assert Base.read(tmp_path / "r") == Base("m", "float32")
    assert Base("m", "float32").pinned == "m"


@pytest.mark.parametrize(
    ("text", "label"),
    [("org/m", "m"), ("org/m@step1", "m@step1"), ("org/m@refs/pr/1", "m@refs-pr-1")],
)
def test_labels(text: str, label: str) -> None:
    assert Named(text).label == label

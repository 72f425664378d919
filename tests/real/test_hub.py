"""Against the hub's own client, and a hub on loopback with revisions and an adapter.

Each command is a process: HF_ENDPOINT counts when huggingface_hub is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from analysis.records.record_files import read_records
from tests.real.hub_server import Hub
from tests.support.places import ROOT
from tests.support.runs import assert_equal_records, small
from train.recipes.registry import copy_model

pytestmark = pytest.mark.real

QUICK = ["tracking.resamples=10", "tracking.ig_steps=2"]


@pytest.fixture
def hub(tmp_path: Path, tiny_model_files: Path) -> Iterator[Hub]:
    """org/tiny at main and step1000, which are different models, and an adapter of step1000."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    root = tmp_path / "hub"
    shutil.copytree(tiny_model_files, root / "org/tiny/main")
    shutil.copytree(tiny_model_files, root / "org/tiny/step1000")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_files)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    model.save_pretrained(root / "org/tiny/step1000")
    config = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(root / "org/adapter/main")
    file = root / "org/adapter/main/adapter_config.json"
    named = {"base_model_name_or_path": "org/tiny", "revision": "step1000"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))
    with Hub(root) as hub:
        yield hub


def run(hub: Hub, tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    more = {"HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**own, **hub.environment, **more},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "HTTP Request" not in done.stdout + done.stderr
    return done


def scores(hub: Hub, tmp_path: Path, model: str) -> torch.Tensor:
    """The edges of a model; those of one text are kept."""
    out = tmp_path / model.replace("/", "-").replace("@", "-")
    words = [f"model.path={model}", f"pairs.path={tmp_path}/pairs.jsonl", f"out={out}"]
    done = run(hub, tmp_path, "analysis", "attribute", *words, "attribution.ig_steps=2")
    assert done.returncode == 0, done.stderr
    return load_file(out / "edges.safetensors")["mean"]


def test_a_run_of_a_revision_is_tracked_on_it(hub: Hub, tmp_path: Path) -> None:
    """Base, checkpoints and what is measured later are of one commit, inline and from files."""
    more = ["train.args.learning_rate=1e-12", "train.args.max_steps=4", "evaluation=none"]
    words = small("sft", Path("org/tiny"), tmp_path / "r", *more, "tracking.where=checkpoint")
    revision = "+train.args.model_init_kwargs={revision: step1000}"
    done = run(hub, tmp_path, "train.sft", *words, revision)
    assert done.returncode == 0, done.stderr
    base = json.loads((tmp_path / "r" / "base.json").read_text())
    commit = hub.commit("org/tiny", "step1000")
    assert (base["path"], base["commit"]) == ("org/tiny@step1000", commit)
    first, *_, last = read_records(tmp_path / "r")
    assert first.origin["model"]["commit"] == commit
    assert torch.allclose(first.mean, last.mean, atol=1e-5)
    # the branch moves on; the run does not
    shutil.copytree(hub.root / "org/tiny/main", hub.root / "org/tiny/step1000", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "r" / "checkpoint-4")  # as of a run that was stopped
    done = run(hub, tmp_path, "train.sft", *words, revision, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "checkpoint-4").is_dir()
    assert json.loads((tmp_path / "r" / "base.json").read_text())["commit"] == commit


def test_every_command_takes_revisions_and_adapters(hub: Hub, tmp_path: Path) -> None:
    done = run(
        hub,
        tmp_path,
        "analysis",
        "pairs",
        "model=org/tiny",
        "size=4",
        f"out={tmp_path}/pairs.jsonl",
    )
    assert done.returncode == 0, done.stderr
    main, old = (scores(hub, tmp_path, f"org/tiny{at}") for at in ("", "@step1000"))
    assert not torch.equal(main, old)
    assert torch.equal(old, scores(hub, tmp_path, str(hub.root / "org/tiny/step1000")))
    adapter = scores(hub, tmp_path, "org/adapter")
    assert not torch.equal(adapter, old)
    evaluate = ["model=org/adapter", "task=arithmetic", "size=2", "n=1", "max_new_tokens=4"]
    done = run(hub, tmp_path, "analysis", "evaluate", *evaluate, f"out={tmp_path}/e")
    assert done.returncode == 0, done.stderr
    [settings] = (tmp_path / "e").rglob("settings.json")
    assert json.loads(settings.read_text())["weights"] == hub.commit("org/adapter", "main")
    track = ["base=org/tiny@step1000", "checkpoints=[org/adapter]", "pairs=pairs.jsonl", *QUICK]
    done = run(hub, tmp_path, "analysis", "track", f"run={tmp_path}/t", *track)
    assert done.returncode == 0, done.stderr
    think = ["model=org/adapter", "size=4", f"out={tmp_path}/think", *QUICK]
    done = run(hub, tmp_path, "analysis", "think", *think)
    assert done.returncode == 0, done.stderr
    wrong = ["model.path=org/tiny@step7", f"pairs.path={tmp_path}/pairs.jsonl", "out=o"]
    done = run(hub, tmp_path, "analysis", "attribute", *wrong)
    assert done.stderr == "error: org/tiny has no revision 'step7' on the hub\n"


def test_an_adapter_of_a_run_names_its_base_and_commit(hub: Hub, tmp_path: Path) -> None:
    more = ["train.args.max_steps=2", "evaluation=none", "tracking=none", "peft=lora"]
    words = small("sft", Path("org/tiny@step1000"), tmp_path / "r", *more)
    done = run(hub, tmp_path, "train.sft", *words)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "r/checkpoint-2/adapter_config.json"
    config: dict[str, Any] = json.loads(file.read_text())
    commit = hub.commit("org/tiny", "step1000")
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", commit)
    assert str(tmp_path / "cache") not in (file.parent / "README.md").read_text()


def test_a_neox_is_tracked_over_its_revisions_as_pythia_is(hub: Hub, tmp_path: Path) -> None:
    """Trained here, and each checkpoint a branch `stepN`: the records are those of the run."""
    kept = ["pairs.size=4", "evaluation=none", "logger=none", *QUICK]
    steps = ["train.args.max_steps=6", "train.args.save_steps=2", "train.args.warmup_steps=0"]
    words = ["experiment=tiny_families", "model=tiny_neox", f"run_dir={tmp_path}/r", *kept, *steps]
    done = run(hub, tmp_path, "train.sft", *words)
    assert done.returncode == 0, done.stderr
    base = Path(json.loads((tmp_path / "r/base.json").read_text())["path"])
    for step in (0, 2, 4, 6):
        branch = hub.root / f"org/neox/step{step}"
        branch.mkdir(parents=True)
        copy_model(tmp_path / f"r/checkpoint-{step}" if step else base, branch)
    shutil.copytree(branch, hub.root / "org/neox/main")
    revisions = ["checkpoints=hub:org/neox@step*", f"pairs={tmp_path}/r/pairs.jsonl"]
    tracking = ["tracking.fraction=0.05", "tracking.batch_size=16", *QUICK]
    done = run(hub, tmp_path, "analysis", "track", f"run={tmp_path}/t", *revisions, *tracking)
    assert done.returncode == 0, done.stderr
    assert [record.step for record in read_records(tmp_path / "t")] == [0, 2, 4, 6]
    assert_equal_records(tmp_path / "t", tmp_path / "r")
    first, *_, last = read_records(tmp_path / "t")
    assert last.origin["model"]["commit"] == hub.commit("org/neox", "step6")
    assert not torch.allclose(first.mean, last.mean)
    assert (tmp_path / "t/report.html").is_file()


@pytest.mark.parametrize("harm", ["delay", "broken"])
def test_a_cached_model_needs_no_hub(hub: Hub, tmp_path: Path, harm: str) -> None:
    tokenizer = ["model=org/tiny", "size=4", f"out={tmp_path}/pairs.jsonl"]
    assert run(hub, tmp_path, "analysis", "pairs", *tokenizer).returncode == 0
    expected = scores(hub, tmp_path, "org/tiny@step1000")
    shutil.rmtree(tmp_path / "org-tiny-step1000")
    setattr(hub, harm, 1000 if harm == "delay" else True)
    began = time.monotonic()
    assert torch.equal(scores(hub, tmp_path, "org/tiny@step1000"), expected)
    assert time.monotonic() - began < 90


def test_a_data_set_of_the_hub_is_trained_on(hub: Hub, tmp_path: Path) -> None:
    """As the same rows in a file; one that is missing or private is one line."""
    place = hub.root / "datasets/org/sums/main"
    place.mkdir(parents=True)
    rows = [
        {"problem": f"{a}+{b}?", "answer": str(a + b), "solution": f"it is {a + b}"}
        for a in range(1, 9)
        for b in range(1, 9)
    ]
    (place / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shutil.copytree(place, hub.root / "datasets/org/closed/main")
    hub.private.add("datasets/org/closed")

    def train(source: str, name: str) -> subprocess.CompletedProcess[str]:
        words = small("sft", hub.root / "org/tiny/main", tmp_path / name, "evaluation=none")
        words = [word for word in words if not word.startswith("data")]
        more = ["data=file", f"data.source={source}", "pairs=answer_style", *QUICK]
        return run(hub, tmp_path, "train.sft", *words, *more, "pairs.size=4")

    for source, name in (("hub:org/sums", "a"), (f"jsonl:{place}/train.jsonl", "b")):
        done = train(source, name)
        assert done.returncode == 0, done.stderr
    weights = [load_file(tmp_path / name / "checkpoint-4/model.safetensors") for name in "ab"]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for source in ("hub:org/nothing", "hub:org/closed"):
        done = train(source, "c")
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"error: data.source '{source}' (config None, split train)")
        assert not (tmp_path / "c" / "run.json").exists()

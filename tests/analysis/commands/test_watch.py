"""`headlab track watch=DIR`: what any trainer has written, as if it had been named."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from analysis.cli import parse
from analysis.commands.track import Options, act
from analysis.records.record_files import read_records, read_scores
from analysis.records.run_file import RunFile
from tests.support.models import random_pairs, tiny_model
from tests.support.places import ROOT
from tests.support.warm import pid_of, warm_python

QUICK = ["tracking.resamples=10", "tracking.ig_steps=2", "wandb_mode=disabled", "device=cpu"]


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """base, and verl's global_step_2 and global_step_4, the latter's configuration elsewhere."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    for seed, name in enumerate(("base", "out/global_step_2", "out/global_step_4")):
        place = tmp_path / name / ("actor/huggingface" if seed else "")
        tiny_model("qwen2", torch.float32, seed=seed).save_pretrained(place)
    (place / "config.json").unlink()
    random_pairs(4, answers=False).save(tmp_path / "pairs.jsonl")
    yield tmp_path


def track(models: Path, name: str, *more: str) -> Path:
    run = models / name
    given = [f"run={run}", f"base={models}/base", f"pairs={models}/pairs.jsonl", *QUICK, *more]
    act(parse(Options, given))
    return run


def test_watched_is_as_named(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where the weights stand without a configuration, which is said."""
    watched = track(models, "watched", f"watch={models}/out", "settle=0", "wait=false")
    assert "global_step_4/actor/huggingface has no config.json; that of" in caplog.text
    named = track(models, "named", f"checkpoints={models}/out/global_step_*")
    records, others = read_records(watched), read_records(named)
    assert [record.step for record in records] == [0, 2, 4]
    for record, other in zip(records, others, strict=True):
        assert torch.equal(read_scores(watched, record.step), read_scores(named, record.step))
        assert record.origin["model"] == other.origin["model"]
        assert record.circuit.any() and torch.equal(record.circuit, other.circuit)
    assert not torch.equal(records[1].mean, records[2].mean)
    assert (watched / "report.html").exists()
    (models / "out/global_step_6/actor").mkdir(parents=True)
    (models / "out/global_step_6/actor/model_world_size_1_rank_0.pt").touch()
    with pytest.raises(ValueError, match=r"1 checkpoints are in a form that is not read: \[6\]"):
        track(models, "watched", f"watch={models}/out", "settle=0", "wait=false")
    with pytest.raises(ValueError, match=r"verl's FSDP shards.*python -m verl\.model_merger"):
        track(models, "named", f"checkpoints={models}/out/global_step_*")


def test_a_run_that_a_trainer_began_says_the_rest(models: Path) -> None:
    """As HeadTracking(where="sidecar") leaves it: run.json, base.json and pairs.jsonl."""
    run = models / "out"
    tracking = {"resamples": 10, "ig_steps": 2, "fraction": 0.1}
    RunFile("out", "DPOTrainer", "loss", tracking, fdr=0.1).write(run)
    (run / "base.json").write_text(json.dumps({"path": f"{models}/base", "dtype": "float32"}))
    shutil.copy(models / "pairs.jsonl", run)
    words = [f"run={run}", f"watch={run}", "settle=0", "wait=false", "device=cpu"]
    with pytest.raises(ValueError, match=r"is tracked with tracking.ig_steps=2; leave these keys"):
        act(parse(Options, [*words, "tracking.ig_steps=3"]))
    act(parse(Options, [*words, "wandb_mode=disabled", "tracking.batch_size=2"]))
    records = read_records(run)
    assert [record.step for record in records] == [0, 2, 4]
    assert records[0].settings["fraction"] == 0.1
    assert RunFile.read(run).kind == "DPOTrainer"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either checkpoints=... or watch=DIR"),
        (["watch=a", "checkpoints=b"], "give either checkpoints=... or watch=DIR"),
        (["watch=a"], "missing: base=..., pairs=..."),
        (["checkpoints=a", "pairs=p"], "missing: base=..."),
        (["checkpoints=hub:org/model@step*"], "missing: pairs=..."),
        (["checkpoints=[hub:org/model@step*,a]"], "names revisions of the hub .* and others"),
        (["watch=a", "base=b", "pairs=p", "redo=true"], "redo=true is for checkpoints"),
        (["watch=a", "base=b", "pairs=p", "settle=-1"], "settle"),
        (["checkpoints=[a{0,1},x]", "base=b", "pairs=p"], "can't be read .*put text in quotes"),
    ],
)
def test_what_does_not_fit_is_said(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(Options, ["run=r", *words])


def watcher(models: Path, *more: str) -> subprocess.Popen[str]:
    words = [f"run={models}/run", f"watch={models}/there", f"base={models}/base"]
    words += [f"pairs={models}/pairs.jsonl", "poll=0.1", "settle=0.3", *QUICK, *more]
    return subprocess.Popen(
        [warm_python(), "-m", "analysis", "track", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.distributed
def test_two_watchers_share_what_a_trainer_writes(models: Path) -> None:
    """Begun before it is there; one is asked to end, the other ends after the last step."""
    children = [watcher(models, "last=4"), watcher(models)]
    assert all("waiting for" in str(child.stdout and child.stdout.readline()) for child in children)
    (models / "there").mkdir()
    for step in (2, 4):  # as a trainer writes: the weights at last
        source = models / f"out/global_step_{step}/actor/huggingface"
        place = models / f"there/step_{step}"
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("*.safetensors"))
        content = (source / "model.safetensors").read_bytes()
        (place / "model.safetensors").write_bytes(content[: len(content) // 2])
        time.sleep(0.5)
        (place / "model.safetensors").write_bytes(content)
    first = children[0].communicate(timeout=120)[0]
    os.kill(pid_of(children[1]), signal.SIGTERM)
    second = children[1].communicate(timeout=120)[0]
    assert [child.returncode for child in children] == [0, 0], first + second
    assert "ending after the current checkpoint" in second
    done = re.findall("^(step [0-9]+): [^ ]+$", first + second, re.MULTILINE)
    assert sorted(done) == ["step 0", "step 2", "step 4"]
    assert [record.step for record in read_records(models / "run")] == [0, 2, 4]

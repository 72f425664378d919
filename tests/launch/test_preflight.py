"""The check before a run: everything that is wrong, at once."""

from __future__ import annotations

import re
import socket
import tomllib
from types import SimpleNamespace

import pytest

from launch import tracking_needs
from launch.preflight import preflight
from tests.support.launches import SMALL
from tests.support.places import ROOT


def test_preflight_names_everything_that_is_wrong_at_once(compose, tmp_path, monkeypatch):
    import shutil
    from importlib import metadata

    installed = metadata.version
    others = {"trl": "0.9.0", "transformers": "5.99.0"}
    monkeypatch.setattr(metadata, "version", lambda name: others.get(name) or installed(name))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    monkeypatch.setattr(metadata, "requires", lambda name: project["dependencies"])
    full = SimpleNamespace(free=4_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cfg = compose(
            "grpo",
            "model=tiny_random",
            "data=file",
            "data.source=jsonl:none.jsonl",
            "resources.gpus=99",
            f"resources.port={port}",
            f"run_dir={tmp_path}/r",
            "train.args.use_vllm=true",
            "train.args.max_steps=400",
        )
        with pytest.raises(ValueError, match="the pre-flight check failed") as caught:
            preflight(cfg)
    lines = str(caught.value).splitlines()[1:]
    starts = ["versions", "vllm", "devices", "port", "data", "disk"]
    assert [line.strip().partition(":")[0] for line in lines] == starts
    wanted = "transformers<5.24,>=5.0 (5.99.0), trl<1.17,>=1.0 (0.9.0); install them with pip"
    assert lines[0].strip() == f"versions: needed {wanted}"
    assert "4 checkpoints of about 9.84 MB" in lines[5]
    assert not (tmp_path / "r").exists()


def test_a_directory_without_weights_or_tokenizer_is_no_model(compose, tiny_dir, tmp_path):
    cfg = compose("sft", "model=hub", f"model.path={tiny_dir}", f"run_dir={tmp_path}/r")
    preflight(cfg)
    tokenizer = {path: path.read_bytes() for path in tiny_dir.glob("tokenizer*")}
    for path in tokenizer:
        path.unlink()
    with pytest.raises(ValueError, match="has no tokenizer that can be read"):
        preflight(cfg)
    for path, content in tokenizer.items():
        path.write_bytes(content)
    (tiny_dir / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights in safetensors"):
        preflight(cfg)


def test_a_model_that_is_nowhere_is_named_at_once(compose, tmp_path):
    cfg = compose("sft", "model=hub", "model.path=no/such-model", f"run_dir={tmp_path}/r")
    with pytest.raises(ValueError, match="'no/such-model' is neither a model directory here nor"):
        preflight(cfg)


@pytest.mark.distributed
def test_a_setting_that_is_wrong_is_found_before_the_queue(launch):
    queue = ["resources=slurm", "resources.gpus=1", "name=mine"]
    done = launch(*SMALL[:-1], *queue, "train.args.learning_rat=1")
    assert done.returncode == 2
    assert "did you mean learning_rate?" in done.stderr
    assert not (launch.directory / "runs").exists()


def test_what_tracking_needs_is_told_and_whether_it_fits(compose, tiny_dir, tmp_path, monkeypatch):
    from analysis.models import room

    cfg = compose("sft", "model=hub", f"model.path={tiny_dir}", f"run_dir={tmp_path}/r")
    [note] = [line for line in preflight(cfg) if line.startswith("tracking ")]
    assert "pairs of up to" in note and "GiB of the process" in note
    assert "a checkpoint" not in note  # of a small model the products tell nothing
    monkeypatch.setattr(tracking_needs, "WORTH_SAYING", 0.0)
    assert any(re.search(r"and at least \d+ s a checkpoint", line) for line in preflight(cfg))
    monkeypatch.setattr(room, "host_memory", lambda: 2**29)
    [short] = [line for line in preflight(cfg) if "may not fit the 0.5 GiB" in line]
    assert "tracking.recompute=true (" in short
    inline = tracking_needs.needs(cfg, str(tiny_dir), False)
    cfg.tracking.where = "checkpoint"  # which is a copy of the model beside the training's
    apart = tracking_needs.needs(cfg, str(tiny_dir), False)
    weights = (tiny_dir / "model.safetensors").stat().st_size
    assert apart.once - inline.once == pytest.approx(weights, rel=0.01)
    off = compose(
        "sft", "model=hub", f"model.path={tiny_dir}", f"run_dir={tmp_path}/r", "tracking=none"
    )
    assert not any("tracking" in line for line in preflight(off))

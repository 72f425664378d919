"""ZeRO 1, 2 and 3 in two processes over gloo, started as a user starts them, with tracking on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from analysis import Pairs, attribute
from analysis.records.checkpoints import Base
from analysis.records.evaluations import read_evaluations
from analysis.records.record_files import read_record, read_records, read_scores
from analysis.records.training_log import read_metrics
from tests.support.places import ROOT
from tests.support.runs import assert_equal_records, small
from tests.support.warm import warm_python
from train.run import prepare, run
from train.sharding import check_config, zero_stage

pytestmark = pytest.mark.distributed
KINDS, STAGES = ("sft", "grpo"), ("zero1", "zero2", "zero3")
TAKEN_APART = "deepspeed.config.zero_optimization.stage3_param_persistence_threshold=0"
OFF = ("tracking=none", "evaluation=none")
# What tells GRPO from SFT under DeepSpeed is generation, which ZeRO-3 changes and 1 and 2 do alike:
# one of the kinds under each of these two.
ALIKE = [("grpo", "zero2"), ("sft", "zero1")]


def cases(stages: tuple[str, ...], alike: list[tuple[str, str]]) -> list[Any]:
    """Both kinds under these stages; those that go alike with another in `make test-slow` only."""
    return [
        pytest.param(kind, stage, marks=[pytest.mark.slow] if (kind, stage) in alike else [])
        for kind in KINDS
        for stage in stages
    ]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """launched(kind, processes, deepspeed, *more): the directory of such a run, made once."""
    from train.recipes.tiny import build_random

    home = tmp_path_factory.mktemp("launched")
    build_random(home / "model", seed=0)

    @cache
    def launch(kind: str, processes: int, deepspeed: str, *more: str) -> Path:
        directory = home / f"{kind}-{processes}-{deepspeed}-{len(list(home.iterdir()))}"
        words = small(kind, home / "model", directory, "pairs.size=5", *more)
        words += [f"resources.processes={processes}", f"deepspeed={deepspeed}"]
        words += ["resources.gpus=0", f"train.args.per_device_train_batch_size={8 // processes}"]
        if deepspeed == "zero3":
            words.append(TAKEN_APART)
        if kind == "grpo":
            words += ["train.args.max_completion_length=24", "train.rewards=[tag_count]"]
            words.append("train.args.reward_weights=[1]")
        path = f"{ROOT / 'tests' / 'support' / 'common_random_numbers'}{os.pathsep}{ROOT}"
        done = subprocess.run(
            [warm_python(), "-m", "launch", f"train={kind}", *words],
            cwd=home,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return directory

    return launch


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Tensors, arrays and numbers in nested containers, by path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {name: value} if isinstance(value, torch.Tensor | int | float) else {}
    return {k: v for key, inner in items for k, v in flat(inner, f"{name}.{key}").items()}


def final_state(directory: Path) -> dict[str, Any]:
    """Weights, optimizer states and random states of every rank, of the last checkpoint."""
    checkpoint = directory / "checkpoint-4"
    (weights,) = checkpoint.glob("*model.safetensors")  # or those of an adapter
    state: dict[str, Any] = dict(load_file(weights))
    optimizers = sorted(checkpoint.glob("global_step4/*optim_states.pt"))
    optimizers = optimizers or [checkpoint / "optimizer.pt"]
    for path in [*optimizers, *sorted(checkpoint.glob("rng_state_*.pth"))]:
        state |= flat(torch.load(path, weights_only=False), path.name)  # our own of a moment ago
    return state


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert any("exp_avg" in name for name in a)
    assert any("rng_state_1" in name and "cpu" in name for name in a)
    different = [
        name
        for name in a
        if not (torch.equal(a[name], b[name]) if torch.is_tensor(a[name]) else a[name] == b[name])
    ]
    assert not different


@pytest.mark.parametrize(
    ("kind", "deepspeed"), cases((*STAGES, "none"), [*ALIKE, ("grpo", "none")])
)
def test_tracking_leaves_sharded_training_bit_identical(launched, kind, deepspeed):
    tracked = launched(kind, 2, deepspeed)
    assert_same(final_state(tracked), final_state(launched(kind, 2, deepspeed, *OFF)))
    assert [record.step for record in read_records(tracked)] == [0, 2, 4]
    assert list(read_evaluations(tracked)) == [0, 2, 4]


# the checkpoint is of whole weights under each of them
@pytest.mark.parametrize(("kind", "deepspeed"), cases(STAGES, [*ALIKE, ("grpo", "zero1")]))
def test_so_does_tracking_from_the_checkpoint(launched, kind, deepspeed):
    tracked = launched(kind, 2, deepspeed, "tracking.where=checkpoint", "evaluation=none")
    assert_same(final_state(tracked), final_state(launched(kind, 2, deepspeed, *OFF)))
    assert_equal_records(tracked, launched(kind, 2, deepspeed))


@pytest.mark.parametrize("deepspeed", [pytest.param("zero1", marks=pytest.mark.slow), "zero2"])
def test_a_run_goes_on_from_the_states_of_its_engine(launched, tmp_path, deepspeed):
    """They are read as weights only (train/states.py), to the same end."""
    whole, begun = launched("sft", 2, deepspeed, *OFF), tmp_path / "begun"
    shutil.copytree(whole, begun)
    shutil.rmtree(begun / "checkpoint-4")
    (begun / "finished.json").unlink()
    launched("sft", 2, deepspeed, *OFF, "resume=auto", f"run_dir={begun}")
    assert_same(final_state(begun), final_state(whole))


@pytest.mark.parametrize(
    ("kind", "deepspeed"),
    [("sft", "zero3"), pytest.param("grpo", "zero1", marks=pytest.mark.slow)],
)
def test_so_does_a_sidecar(launched, kind, deepspeed):
    from launch.sidecar import Options, act

    tracked = launched(kind, 2, deepspeed, "tracking.where=sidecar", "evaluation=none")
    assert_same(final_state(tracked), final_state(launched(kind, 2, deepspeed, *OFF)))
    act(Options(run=str(tracked), device="cpu"))
    assert_equal_records(tracked, launched(kind, 2, deepspeed))


def test_adapters_are_analysed_attached_under_zero_3(launched):
    tracked = launched("sft", 2, "zero3", "peft=lora")
    assert_same(final_state(tracked), final_state(launched("sft", 2, "zero3", "peft=lora", *OFF)))
    pairs, base = Pairs.load(tracked / "pairs.jsonl"), Base.read(tracked)
    expected = attribute(
        base.load(tracked / "checkpoint-4", "cpu"), pairs, ig_steps=2, quadrature="midpoint"
    ).per_edge
    found = read_scores(tracked, 4)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.equal(found, read_scores(tracked, 0))


def test_offloaded_stages_train_and_resume_with_as_many_processes_alone(launched, compose):
    directory = launched("sft", 2, "zero3_offload", "evaluation=none", "train.args.max_steps=2")
    assert [record.step for record in read_records(directory)] == [0, 2]
    from train.checkpoints import check_processes

    check_processes(directory / "checkpoint-2", 2)
    with pytest.raises(
        ValueError, match="was saved by 2 processes, and with 4 the run would not be"
    ):
        check_processes(directory / "checkpoint-2", 4)


@pytest.mark.parametrize(("kind", "deepspeed"), cases(STAGES, [*ALIKE, ("grpo", "zero1")]))
def test_losses_are_those_of_one_process(launched, kind, deepspeed):
    """Of the same global batch of 8."""
    sharded, single = (read_metrics(launched(kind, n, z)) for n, z in ((2, deepspeed), (1, "none")))
    name = "loss" if kind == "sft" else "reward"
    for step in range(1, 5):
        for key in (name, "grad_norm"):
            assert sharded[step][key] == pytest.approx(single[step][key], rel=1e-4, abs=1e-6), step
    assert any(single[step]["grad_norm"] > 1e-3 for step in range(1, 5))
    a, b = (final_state_weights(launched(kind, n, z)) for n, z in ((2, deepspeed), (1, "none")))
    assert max(float((a[k] - b[k]).abs().max()) for k in b) < 1e-5


def final_state_weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "checkpoint-4" / "model.safetensors")


# a checkpoint and a forward pass see the same under ZeRO 1 as under 2
@pytest.mark.parametrize(
    "deepspeed", [pytest.param("zero1", marks=pytest.mark.slow), "zero2", "zero3"]
)
def test_records_are_those_of_one_process(launched, deepspeed):
    """The pairs are split unevenly over the ranks (5 over 2) and the weights over them too."""
    directory = launched("sft", 2, deepspeed)
    pairs = Pairs.load(directory / "pairs.jsonl")
    base = Base.read(directory)
    for step in (0, 2, 4):
        record = read_record(directory, step)
        model = base.load(directory / f"checkpoint-{step}" if step else None, "cpu")
        quadrature = record.settings["quadrature"]
        expected = attribute(model, pairs, ig_steps=2, quadrature=quadrature).per_edge
        error = (read_scores(directory, step) - expected).abs().max()
        assert error <= 1e-5 * expected.abs().max()


def test_the_weights_were_taken_apart(launched):
    """Each rank of ZeRO-3 keeps half of the model: the test's name is what it tests."""
    checkpoint = launched("sft", 2, "zero3") / "checkpoint-4"
    whole = sum(t.numel() for t in load_file(checkpoint / "model.safetensors").values())
    for path in checkpoint.glob("global_step4/*optim_states.pt"):
        state = torch.load(path, weights_only=False)["optimizer_state_dict"]
        kept = sum(t.numel() for t in state["fp32_flat_groups"])
        assert whole / 2 <= kept < whole / 2 + 10_000


def test_deepspeed_that_is_not_in_force_is_an_error(compose, tiny_dir, tmp_path):
    """accelerate's --cpu flag drops DeepSpeed without a word."""
    import yaml

    from train.config import plain

    words = small("sft", tiny_dir, tmp_path / "r", "deepspeed=zero2", *OFF)
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(plain(compose("sft", *words))))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "train.run", str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "deepspeed was asked for and is not in force" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "r").glob("checkpoint-*"))


def test_the_next_run_in_the_same_process_is_not_under_deepspeed(compose, tiny_dir, tmp_path):
    """Its files would show it; and it trains what it would have trained before."""
    import torch.distributed as dist

    trained = {}
    for name, deepspeed in (("a", "none"), ("b", "zero3"), ("c", "none"), ("d", "zero1")):
        directory = tmp_path / name
        words = small("sft", tiny_dir, directory, *OFF, "train.args.max_steps=1")
        run(prepare(compose("sft", *words, f"deepspeed={deepspeed}")))
        assert not dist.is_initialized()
        assert not {"RANK", "ACCELERATE_USE_DEEPSPEED"} & set(os.environ)
        checkpoint = directory / "checkpoint-1"
        assert (checkpoint / "global_step1").exists() == (deepspeed != "none")
        trained[name] = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(trained["a"][key], trained["c"][key]) for key in trained["a"])


def test_stage_3_that_would_not_gather_is_refused():
    assert zero_stage(None) == 0
    check_config({"zero_optimization": {"stage": 2}})
    with pytest.raises(ValueError, match="gather_16bit_weights_on_model_save=true; set it"):
        check_config({"zero_optimization": {"stage": 3}})


@pytest.mark.parametrize("zero", [{"stage": 9}, {"stage": "three"}, {"stage": True}, [3]])
def test_a_stage_that_there_is_not_is_refused(zero):
    with pytest.raises(ValueError, match="choose stage 0, 1, 2 or 3"):
        check_config({"zero_optimization": zero})

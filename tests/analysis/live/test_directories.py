"""A directory that any trainer writes to: which checkpoints there are, and when they are whole."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.live.directories import Directory, is_declared
from analysis.live.forms import checkpoints_below, foreign, step_in, weights_in
from analysis.live.watching import Gone
from tests.support.checkpoint_files import WHOLE, date, touch, write_adapter, write_weights


def directory(root: Path, settle: float = 0.0, last: int | None = None, **how: Any) -> Directory:
    """Of which the tests say what is tracked: `tracker.done`."""
    done: set[int] = {0}
    tracker = SimpleNamespace(run=root / "run", done=done, is_tracked=done.__contains__)
    load = how.get("load", lambda weights, device: weights)
    return Directory(root, "base", load, tracker, settle, last)  # type: ignore[arg-type]


def steps(source: Directory) -> list[int]:
    return [found.step for found in source.pending()]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-40", 40),
        ("step_40", 40),
        ("step-40", 40),
        ("global_step_40", 40),  # verl
        ("global_step40_hf", 40),  # OpenRLHF
        ("iter_0000040", 40),  # Megatron
        ("iter_40", 40),
        ("epoch_4", 4),  # torchtune
        ("epoch0epochstep9globalstep40", 40),  # AReaL
        ("step40-unsharded", 40),  # OLMo
        ("sft-checkpoint-40", 40),
        ("final", None),
        ("checkpoint-last", None),
        ("qwen-2.5", None),
        ("step_40.tmp", None),
    ],
)
def test_steps_in_names(name: str, step: int | None) -> None:
    assert step_in(name) == step


@pytest.mark.parametrize(
    ("checkpoint", "weights"),
    [
        ("checkpoint-40", ""),
        ("weights/step_40", ""),  # prime-rl
        ("global_step_40", "actor/huggingface"),  # verl
        ("global_step_40", "huggingface"),  # verl's SFT
        ("global_step_40", "policy"),  # SkyRL's exports
        ("step_40", "policy/weights/model/consolidated"),  # NeMo RL
        ("run/1/checkpoints/step-40", "hf"),
    ],
)
def test_weights_are_found_below(tmp_path: Path, checkpoint: str, weights: str) -> None:
    place = write_weights(tmp_path / checkpoint / weights, shards=2)
    write_weights(tmp_path / checkpoint / "critic" / "huggingface")
    touch(tmp_path / checkpoint / "optimizer.pt", tmp_path / "rollouts/step_40/rank_0.bin")
    source = directory(tmp_path)
    [found] = source.pending()
    assert (found.step, found.path) == (40, place)


def test_drafts_and_records_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("tmp_step_10", ".checkpoint-10", "tmp-checkpoint-10", "heads/step-000010"):
        write_weights(tmp_path / name)
    assert not checkpoints_below(tmp_path)


@pytest.mark.parametrize(
    ("file", "command"),
    [
        (
            "pytorch_model_fsdp_0/__0_0.distcp",
            "accelerate merge-weights {c}/pytorch_model_fsdp_0 {c}/hf",
        ),
        (
            "actor/model_world_size_8_rank_0.pt",
            "python -m verl.model_merger merge --backend fsdp --local_dir {c}/actor",
        ),
        (
            "actor/dist_ckpt/__0_0.distcp",
            "python -m verl.model_merger merge --backend megatron --local_dir {c}/actor",
        ),
        ("__0_0.distcp", "convert_to_hf.py {c} {c}/hf"),
        ("policy/weights/__0_0.distcp", "convert_dcp_to_hf.py --dcp-ckpt-path {c}/policy/weights"),
        ("common.pt", "--megatron-path {c} --hf-path {c}/hf (Megatron Bridge)"),
        ("mp_rank_00/model_optim_rng.pt", "--ckpt-convert-format torch_dist, then python"),
        (
            "global_step7/zero_pp_rank_0_mp_rank_00_model_states.pt",
            "python {c}/zero_to_fp32.py {c} {c}/hf --safe_serialization --tag global_step7",
        ),
        ("pytorch_model.bin", "M.from_pretrained('{c}').save_pretrained('{c}/hf')"),
        ("pytorch_model-00001-of-00002.bin", "AutoModelForCausalLM"),
        ("adapter_model.bin", "AutoPeftModelForCausalLM"),
        ("consolidated.safetensors", "save_pretrained's form (model.safetensors)"),
    ],
)
def test_shards_are_named_with_their_converter(tmp_path: Path, file: str, command: str) -> None:
    """In one line, not before they have settled; what the converter makes is then tracked."""
    checkpoint = tmp_path / "checkpoint-7"
    touch(checkpoint / file, checkpoint / "optimizer.pt", checkpoint / "training_args.bin")
    line = foreign(checkpoint)
    assert line is not None and "\n" not in line
    assert command.format(c=checkpoint) in line
    assert weights_in(checkpoint) is None
    growing, source = directory(tmp_path, settle=100), directory(tmp_path)
    assert not steps(growing) and not growing.unreadable
    assert not steps(source) and source.unreadable == [7]
    write_weights(checkpoint / "hf", config=False)
    assert steps(source) == [7] and not source.unreadable


def test_no_other_file_is_taken_for_weights(tmp_path: Path) -> None:
    touch(
        *(tmp_path / "checkpoint-7" / n for n in ("optimizer.pt", "training_args.bin", "data.pt"))
    )
    assert foreign(tmp_path / "checkpoint-7") is None


@pytest.mark.parametrize("write", [write_weights, write_adapter])
def test_whole_is_what_has_settled(tmp_path: Path, write: Any, monkeypatch: Any) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    write(tmp_path / "step_1")
    source = directory(tmp_path, settle=30)
    assert not steps(source) and not source.is_over(wait=False)
    clock[0] = 20.0
    touch(tmp_path / "step_1" / "optimizer.bin")
    assert not steps(source)
    clock[0] = 49.0
    assert not steps(source)
    clock[0] = 50.0
    assert steps(source) == [1] and source.is_over(wait=False)


def test_missing_shards_and_cut_files_are_not_whole(tmp_path: Path) -> None:
    whole = write_weights(tmp_path / "step_1", shards=3)
    one = write_weights(tmp_path / "step_2")
    no_index = write_weights(tmp_path / "step_3", shards=2)
    (whole / "model-00002-of-00003.safetensors").rename(tmp_path / "aside")
    content = (one / WHOLE).read_bytes()
    (one / WHOLE).write_bytes(content[:-3])
    (no_index / "model.safetensors.index.json").unlink()
    source = directory(tmp_path)
    assert not steps(source)
    said = " ".join(source._said)
    assert "which is missing" in said and "damaged" in said and "no model.safetensors.index" in said
    (tmp_path / "aside").rename(whole / "model-00002-of-00003.safetensors")
    (one / WHOLE).write_bytes(content)
    assert steps(source) == [1, 2]


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        ("step_5/STABLE", ""),
        ("step_5/COMPLETED", "COMPLETED"),
        ("step_5/trainer_state.json", "{}"),
        ("latest_checkpointed_iteration.txt", "5"),
        ("latest_checkpointed_iteration.txt", "10\n"),
        ("latest_ckpt_global_step.txt", "5"),
    ],
)
def test_a_trainers_word_counts_at_once(tmp_path: Path, marker: str, content: str) -> None:
    """Unless it is older than the weights: of an earlier training into the same directory."""
    weights = write_weights(tmp_path / "step_5" / "actor" / "huggingface")
    (tmp_path / marker).write_text(content)
    date(tmp_path, 1000.0)
    assert is_declared(tmp_path / "step_5", weights)
    assert steps(directory(tmp_path, settle=100)) == [5]
    date(weights, 1001.0)
    assert not is_declared(tmp_path / "step_5", weights)
    assert not steps(directory(tmp_path, settle=100))


@pytest.mark.parametrize("content", ["4", "", "release"])
def test_a_word_on_other_checkpoints_does_not_count(tmp_path: Path, content: str) -> None:
    weights = write_weights(tmp_path / "step_5")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(content)
    assert not is_declared(tmp_path / "step_5", weights)


def test_a_manifest_tells_more(tmp_path: Path) -> None:
    """All files at their sizes; a checkpoint that is there only to resume from is not tracked."""
    weights = write_weights(tmp_path / "checkpoint-5")
    files = {WHOLE: (weights / WHOLE).stat().st_size, "optimizer.pt": 7}
    manifest = weights / "headlab.json"
    manifest.write_text(json.dumps({"files": files}))
    assert not steps(directory(tmp_path, settle=100))
    (weights / "optimizer.pt").write_bytes(b"7 bytes")
    assert steps(directory(tmp_path, settle=100)) == [5]
    manifest.write_text(json.dumps({"files": files, "interrupted": True}))
    assert not steps(directory(tmp_path))


def test_one_training_is_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Shards beside the weights of the same steps are no second one (prime-rl)."""
    write_weights(tmp_path / "weights/step_5")
    touch(tmp_path / "checkpoints/step_5/trainer/__0_0.distcp")
    source = directory(tmp_path)
    assert steps(source) == [5] and not source.unreadable
    write_weights(tmp_path / "weights/epoch_1")
    assert steps(source) == [5]
    assert "epoch_N is passed over; watched is" in caplog.text
    with pytest.raises(ValueError, match=r"2 trainings or kinds .*watch the directory of one"):
        directory(tmp_path).pending()
    assert steps(directory(tmp_path / "weights/step_*")) == [5]


def test_epochs_from_zero_are_one_later(tmp_path: Path, monkeypatch: Any) -> None:
    """Step 0 is the base; what the records say of it counts once the first epoch is gone."""
    for epoch in (0, 1):
        write_weights(tmp_path / f"epoch_{epoch}")
    assert steps(directory(tmp_path)) == [1, 2]
    shutil.rmtree(tmp_path / "epoch_0")
    assert steps(directory(tmp_path)) == [1]
    origin = {"model": {"path": str(tmp_path / "epoch_0")}}
    touch(tmp_path / "run/heads/step-000001/record.json")
    record = SimpleNamespace(origin=origin)
    monkeypatch.setattr("analysis.records.record_files.read_record", lambda run, step: record)
    assert steps(directory(tmp_path)) == [2]


def test_a_checkpoint_of_step_0_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (0, 5):
        write_weights(tmp_path / f"step_{step}")
    assert steps(directory(tmp_path)) == [5]
    assert "step_0 is passed over: step 0 is base=base" in caplog.text


@pytest.mark.parametrize("harm", ["removed", "written anew", "removed while it is read"])
def test_what_changes_under_the_reader_is_not_measured(tmp_path: Path, harm: str) -> None:
    weights = write_weights(tmp_path / "step_5")

    def load(place: Path, device: str) -> Path:
        if harm == "written anew":
            write_weights(place)
            date(place, 1000.0)
        else:
            shutil.rmtree(place)
        if harm == "removed":
            raise ValueError("can't load it")
        return place

    source = directory(tmp_path, load=load)
    [found] = source.pending()
    with pytest.raises(Gone), source.loaded(found, "cpu"):
        pass
    assert weights == found.path


def test_a_model_that_cannot_be_loaded_is_a_failure(tmp_path: Path) -> None:
    def load(place: Path, device: str) -> Path:
        touch(place / "optimizer.pt")  # beside the weights, which are those that were found
        raise ValueError("of another shape")

    write_weights(tmp_path / "step_5")
    source = directory(tmp_path, load=load)
    [found] = source.pending()
    with pytest.raises(ValueError, match="of another shape"), source.loaded(found, "cpu"):
        pass


def test_it_ends_after_the_last_step(tmp_path: Path) -> None:
    source = directory(tmp_path, last=10)
    write_weights(tmp_path / "step_5")
    assert steps(source) == [5] and not source.is_over(wait=True)
    write_weights(tmp_path / "step_11")  # a trainer need not save at that very step
    assert steps(source) == [5, 11] and source.is_over(wait=True)
    shutil.rmtree(tmp_path / "step_11")
    touch(tmp_path / "run/heads/step-000011/record.json")
    source.pending()
    assert source.is_over(wait=True)
    assert not directory(tmp_path).is_over(wait=True)


def test_the_base_comes_first(tmp_path: Path) -> None:
    source = directory(tmp_path)
    source.tracker.done.clear()  # type: ignore[attr-defined]
    write_weights(tmp_path / "step_5")
    assert [(found.step, found.path) for found in source.pending()][0] == (0, "base")
    with nullcontext(), source.loaded(source.pending()[0], "cpu") as model:
        assert model is None

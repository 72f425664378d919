"""States of a training that was stopped are read, and what is planted in them is not run."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from train.states import FORCED, check_states, weights_only


class Planted:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint with the states of an honest training."""
    directory = tmp_path / "checkpoint-2"
    directory.mkdir()
    torch.save({"state": {0: {"exp_avg": torch.ones(2)}}}, directory / "optimizer.pt")
    torch.save({"last_epoch": 2, "_last_lr": [0.1]}, directory / "scheduler.pt")
    words = np.arange(624, dtype=np.uint32)  # as numpy gives the state of its generator
    states = {"numpy": ("MT19937", words, 624, 0, 0.0), "cpu": torch.random.get_rng_state()}
    torch.save(states, directory / "rng_state.pth")
    return directory


def test_honest_states_are_read(checkpoint):
    check_states(checkpoint)
    with weights_only(checkpoint):
        torch.load(checkpoint / "rng_state.pth", weights_only=False)
    assert FORCED not in os.environ


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state_1.pth", "global_step2/mp_rank_00.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_planted_object_is_refused_and_never_made(checkpoint, tmp_path, name, zipped):
    path = checkpoint / name
    path.parent.mkdir(exist_ok=True)
    planted = {"state": Planted(tmp_path / "run")}
    torch.save(planted, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"{name} (holds an object of \S+mkdir|can't be read)"):
        check_states(checkpoint)
    with weights_only(checkpoint), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)  # as DeepSpeed asks for it
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_is_one_line(checkpoint):
    whole = (checkpoint / "optimizer.pt").read_bytes()
    (checkpoint / "optimizer.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"optimizer\.pt can't be read .*; remove .*checkpoint-2"):
        check_states(checkpoint)


def test_a_flipped_bit_is_one_line(checkpoint):
    path = checkpoint / "optimizer.pt"
    content = path.read_bytes()
    at = content.index(torch.ones(2).numpy().tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    torch.load(path, weights_only=True)  # which says nothing
    with pytest.raises(ValueError, match=r"optimizer\.pt can't be read \(its part \S+ has changed"):
        check_states(checkpoint)


@pytest.mark.distributed
def test_deepspeed_reads_its_own_states_and_no_planted_one(checkpoint, tmp_path):
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    (checkpoint / "latest").write_text("global_step2")
    path = checkpoint / "global_step2" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    path.parent.mkdir()
    scaler = DynamicLossScaler(2.0**16, 2, 1000, 1, 1, dtype=torch.float16)
    states = {"loss_scaler": scaler, "other": LossScaler(1), "zero_stage": ZeroStageEnum.gradients}
    torch.save({"optimizer_state_dict": states}, path)
    check_states(checkpoint)
    engine = TorchCheckpointEngine()
    with weights_only(checkpoint):
        found = engine.load(str(path))["optimizer_state_dict"]
    assert (found["loss_scaler"].cur_scale, found["zero_stage"]) == (2.0**16, 2)
    torch.save({"optimizer_state_dict": states, "more": Planted(tmp_path / "run")}, path)
    with pytest.raises(ValueError, match="optim_states.pt holds an object of "):
        check_states(checkpoint)
    with weights_only(checkpoint), pytest.raises(pickle.UnpicklingError):
        engine.load(str(path))
    assert not (tmp_path / "run").exists()

"""Training starts from, and goes on from, files that hold just the model's tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.models import tiny_model
from train.build import peft_config
from train.plan import assemble


def test_files_that_lack_a_tensor_are_refused_before_anything_is_trained(tmp_path, compose):
    """transformers and its trainer would fill it with random numbers, with a warning."""
    import peft

    whole, damaged, adapter = (tmp_path / name for name in ("whole", "checkpoint-4", "adapter"))
    for place in (whole, damaged):
        tiny_model("qwen2", torch.float32).save_pretrained(place)
    file = damaged / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    lora = peft.LoraConfig(target_modules=["q_proj"])
    peft.get_peft_model(tiny_model("qwen2", torch.float32), lora).save_pretrained(adapter)

    def plan(path: Any, checkpoint: Any = None) -> Any:
        cfg = compose("sft", "experiment=tiny", "model=hub", f"model.path={path}")
        parts = {"cfg": cfg, "run": tmp_path, "tracking": None, "checkpoint": checkpoint}
        return cast("Any", SimpleNamespace(**parts))

    for wrong in (plan(damaged), plan(whole, damaged)):
        with pytest.raises(ValueError, match="checkpoint-4 does not have just .*norm.weight miss"):
            assemble(wrong)
    with pytest.raises(
        ValueError, match="adapter' is an adapter, and training starts from a whole"
    ):
        assemble(plan(adapter))


def test_adapters_that_no_checkpoint_can_hold_are_refused(compose):
    cfg = compose("sft", "experiment=tiny", "peft=lora", "+peft.args.init_lora_weights=corda")
    with pytest.raises(ValueError, match="peft.args has init_lora_weights=corda, which changes"):
        peft_config(cfg)

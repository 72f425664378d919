"""The graph of a model whose weights are not loaded: from what was found before, or by a look."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from analysis.detection import cache
from analysis.detection.detect import anatomy
from analysis.detection.shape import graph_of
from tests.support.models import tiny_model, tiny_wrapper


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llava", "qwen3_5", "lora"])
def test_a_graph_is_that_of_the_loaded_model(name, tmp_path, monkeypatch):
    """Found by a look at the weights, and then without them."""
    monkeypatch.setattr(cache, "_PLANS", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wraps = name in ("llava", "qwen3_5")
    model: Any = tiny_wrapper(name) if wraps else tiny_model(name.replace("lora", "qwen2"))
    model = model.to(torch.float32)
    model.save_pretrained(tmp_path / "model")
    place = tmp_path / "model"
    if name == "lora":
        from peft import LoraConfig, get_peft_model

        base = type(model).from_pretrained(place)
        get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(
            tmp_path / "adapter"
        )
        place = tmp_path / "adapter"
    found = graph_of(place)
    for file in tmp_path.glob("model/*.safetensors"):
        file.write_bytes(b"")
    if name == "lora":  # the base's own is looked for
        anatomy(model)
    assert graph_of(place) == found == anatomy(model).graph

"""vLLM: what it is given, and that its answers are judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.support.evaluations import load, run
from tests.support.known_circuit import HEADS
from train.recipes.tiny import build_tokenizer


def test_vllm_gets_baked_checkpoints_and_seeds(copier, tmp_path, monkeypatch):
    """With a stand-in for the package: what it is given, and that its answers are judged."""
    import types

    import peft

    from analysis.evaluation import conditions, vllm_engine

    loaded, asked_for, loaded_tokenizer = [], [], build_tokenizer()

    class LLM:
        def __init__(self, model, **options):
            assert options["dtype"] == "float32"  # that of the files, and not vLLM's own choice
            loaded.append(model)
            self._model, self._tokenizer = load(Path(model))

        def get_tokenizer(self):
            return self._tokenizer

        def generate(self, prompts, how, use_tqdm):
            asked_for.extend(how)
            outputs = []
            for prompt in prompts:
                ids = torch.tensor([prompt["prompt_token_ids"]])
                out = self._model.generate(ids, max_new_tokens=4, do_sample=False)[0]
                out = out[ids.shape[1] :]
                text = self._tokenizer.decode(out, skip_special_tokens=True)
                one = types.SimpleNamespace(text=text, token_ids=out, finish_reason="stop")
                outputs.append(types.SimpleNamespace(outputs=[one]))
            return outputs

    def parameters(**options):
        return types.SimpleNamespace(**options)

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, parameters
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm_engine, "check_vllm", lambda dtype: None)
    assert conditions.engine is vllm_engine.engine
    change = f"intervention=zero:{','.join(HEADS)}"
    result = run(copier, tmp_path / "e", "backend=vllm", change, "controls=1", "size=10")
    assert loaded[0] == str(copier)
    assert len(loaded) == 3
    assert len(set(loaded)) == 3
    assert len({how.seed for how in asked_for[:20]}) == 20
    assert (asked_for[0].temperature, asked_for[0].max_tokens) == (0.3, 4)
    assert result["conditions"]["none"]["pass_at_1"] == 1
    assert result["conditions"]["intervention"]["pass_at_1"] == 0
    assert asked_for[0].stop_token_ids == [loaded_tokenizer.eos_token_id]
    adapter = tmp_path / "adapter"
    peft.get_peft_model(load(copier)[0], peft.LoraConfig(r=2)).save_pretrained(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(copier)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    result = run(
        adapter, tmp_path / "a", f"task=jsonl:{copier}/task.jsonl", "backend=vllm", "size=5"
    )
    assert result["conditions"]["none"]["pass_at_1"] == 1  # merged, as vLLM takes whole models
    assert loaded[-1] != str(adapter)
    with pytest.raises(ValueError, match="can't be baked into weights, as vLLM needs"):
        run(copier, tmp_path / "r", "backend=vllm", "intervention=resample:L0H1")
    with pytest.raises(ValueError, match="vLLM's Qwen3 leaves out the bias"):
        vllm_engine.check_bakes("mean", "qwen3")

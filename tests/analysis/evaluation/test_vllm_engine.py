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

    started, loaded, forgotten, asked_for = [], [], [], []
    loaded_tokenizer = build_tokenizer()

    class LLM:
        def __init__(self, model, **options):
            assert options["dtype"] == "float32"  # that of the files, and not vLLM's own choice
            started.append((model, options))
            limits = types.SimpleNamespace(max_model_len=options.get("max_model_len", 64))
            self.llm_engine = types.SimpleNamespace(model_config=limits)
            self._take(model)

        def _take(self, model):
            loaded.append(model)
            self._model, self._tokenizer = load(Path(model))

        def collective_rpc(self, method, kwargs):
            assert method == "reload_weights"
            self._take(kwargs["weights_path"])

        def reset_prefix_cache(self):
            forgotten.append(loaded[-1])
            return True

        def generate(self, prompts, how, use_tqdm):
            asked_for.extend(how)
            outputs = []
            for prompt in prompts:
                ids = torch.tensor([prompt["prompt_token_ids"]])
                out = self._model.generate(ids, max_new_tokens=4, do_sample=False)[0]
                out = out[ids.shape[1] :]
                ended = int(out[-1]) == self._tokenizer.eos_token_id
                reason = "stop" if ended else "length"
                one = types.SimpleNamespace(text="", token_ids=out, finish_reason=reason)
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
    assert len(started) == 1  # the weights of the other conditions are exchanged
    assert forgotten == loaded[1:]  # with what was computed with those before
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
    for kind in ("qwen3", "olmo2"):
        with pytest.raises(ValueError, match=f"vLLM is not known to read it in {kind}"):
            vllm_engine.check_bakes("mean", kind)
        vllm_engine.check_bakes("scale", kind)
    # answers are counted and cut as those of hf are, and settings reach the engine
    hf = run(copier, tmp_path / "hf", "size=10", "temperature=0", "n=1")
    settings = "engine={max_model_len: 40, gpu_memory_utilization: 0.5}"
    same = run(copier, tmp_path / "v", "size=10", "temperature=0", "n=1", "backend=vllm", settings)
    lines = [(tmp_path / name / "completions" / "none.jsonl").read_text() for name in ("hf", "v")]
    assert lines[0] == lines[1]
    assert same["conditions"] == hf["conditions"]
    assert started[-1][1]["gpu_memory_utilization"] == 0.5
    with pytest.raises(
        ValueError, match=r"max_new_tokens=4 do not fit vLLM's .* takes 5 tokens .*"
    ):
        run(copier, tmp_path / "s", "backend=vllm", "engine={max_model_len: 5}", "size=5")


@pytest.mark.parametrize(
    ("given", "backend", "message"),
    [
        ({"max_model_len": 9}, "hf", "engine is for backend=vllm, and the backend is hf"),
        ("big", "vllm", "engine is 'big'; write 'engine={max_model_len: 4096}'"),
        ({"max_modellen": 9}, "vllm", "engine has no key 'max_modellen'; did you mean max_model_l"),
        ({"max_model_len": 0}, "vllm", "engine.max_model_len must be at least 1, not 0"),
        ({"max_model_len": "9k"}, "vllm", "engine.max_model_len is '9k'; it takes a number"),
        ({"gpu_memory_utilization": 1.5}, "vllm", "engine.gpu_memory_utilization must lie in"),
        ({"tensor_parallel_size": True}, "vllm", "engine.tensor_parallel_size is True; it takes a"),
        ({"enforce_eager": 1}, "vllm", "engine.enforce_eager is 1; it takes true or false"),
    ],
)
def test_a_setting_of_the_engine_is_checked_by_name(given, backend, message):
    from analysis.evaluation.vllm_engine import check_engine

    with pytest.raises(ValueError, match=message):
        check_engine(given, backend)
    check_engine(None, backend)
    check_engine({"max_model_len": 9, "gpu_memory_utilization": 1, "enforce_eager": True}, "vllm")


def test_all_conditions_of_a_mean_have_one_architecture(tmp_path):
    """So that one engine can hold them: a bias of 0 where there is nothing to add."""
    from analysis.detection.detect import anatomy
    from analysis.evaluation.vllm_engine import _likeness
    from analysis.interventions.baking import bake
    from analysis.interventions.head_sets import parse_intervention
    from analysis.interventions.operations import constants
    from tests.support.models import tiny_model

    ids = torch.arange(3, 9)[None]
    wanted = tiny_model("qwen2")(input_ids=ids).logits
    plain = bake(tiny_model("qwen2"), None, biased=True)
    assert torch.allclose(plain(input_ids=ids).logits, wanted)
    change = parse_intervention("mean:L0H1", anatomy(tiny_model("qwen2")).graph)
    added = constants(tiny_model("qwen2"), change, [[3, 4, 5]])
    changed = bake(tiny_model("qwen2"), change, added)
    assert not torch.allclose(changed(input_ids=ids).logits, wanted)
    for name, model in (("plain", plain), ("changed", changed)):
        model.save_pretrained(tmp_path / name)
    assert _likeness(tmp_path / "plain") == _likeness(tmp_path / "changed")

"""Every kind of adapter: one circuit, of the live model, the saved adapter and the merged weights.

What is not held to this here is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis import attribute
from analysis.interventions.baking import bake
from analysis.models.adapters import SERVED, check_live, check_served
from analysis.models.loading import check_weights, load_config, load_model
from analysis.models.provenance import weight_hashes
from tests.support.models import random_pairs, tiny_model

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj"]
IDS = torch.arange(3, 9)[None]
Make = Callable[[], Any]


def lora(**options: Any) -> Make:
    given = {"r": 2, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **options}
    return lambda: peft.LoraConfig(**given)


def other(name: str, **options: Any) -> Make:
    given = {"target_modules": LINEAR, "task_type": "CAUSAL_LM", **options}
    return lambda: getattr(peft, name)(**given)


# LoRA's variants, then one config of each other kind that is served
KINDS: dict[str, Make] = {
    "dora": lora(use_dora=True),
    "rank-stabilised": lora(use_rslora=True, rank_pattern={"q_proj": 3}),
    "biases": lora(bias="all"),
    "embeddings": lora(target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "dora on embeddings": lora(target_modules=["embed_tokens", "q_proj"], use_dora=True),
    "tokens": lora(trainable_token_indices=[3, 4]),
    "whole norms": lora(modules_to_save=["norm", "input_layernorm", "post_attention_layernorm"]),
    "whole projections": lora(target_modules=["q_proj"], modules_to_save=["o_proj", "mlp"]),
    "whole embeddings": lora(modules_to_save=["embed_tokens", "lm_head"]),
    "parameters": lora(target_modules=[], target_parameters=["q_proj.weight", "o_proj.weight"]),
    "BOFT": other("BOFTConfig", boft_block_size=4),
    "DELORA": other("DeloraConfig", r=2),
    "FOURIERFT": other("FourierFTConfig", n_frequency=9),
    "GRALORA": other("GraloraConfig", r=4),
    "HIRA": other("HiraConfig", r=2),
    "HRA": other("HRAConfig", r=2),
    "IA3": other("IA3Config", feedforward_modules=["down_proj"]),
    "LN_TUNING": other("LNTuningConfig", target_modules=["norm", "input_layernorm"]),
    "LOHA": other("LoHaConfig", r=2),
    "LOKR": other("LoKrConfig", r=2),
    "LORA": lora(),
    "MISS": other("MissConfig", r=2),
    "OFT": other("OFTConfig", oft_block_size=4),
    "RANDLORA": other("RandLoraConfig", r=2),
    "ROAD": other("RoadConfig", group_size=4),
    "TRAINABLE_TOKENS": other("TrainableTokensConfig", token_indices=[3], target_modules=None),
    "VERA": other("VeraConfig", r=2, target_modules=["q_proj"]),
    "WAVEFT": other("WaveFTConfig", n_frequency=9),
}
# where modules are fused and transposed, norms have a mean, and lm_head is the embedding
OF_GPT2: dict[str, Make] = {
    "lora": lora(target_modules=GPT2, fan_in_fan_out=True),
    "whole norms": lora(target_modules=GPT2, fan_in_fan_out=True, modules_to_save=["ln_1", "ln_f"]),
    "whole projections": lora(
        target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["c_proj"]
    ),
    "embeddings": lora(target_modules=["wte", "c_attn"]),
    "lm_head": lora(target_modules=["lm_head", "c_attn"]),
    "LN_TUNING": other("LNTuningConfig", target_modules=["ln_1", "ln_f"]),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    places = {}
    for name in ("qwen2", "gpt2", "gemma3"):
        places[name] = tmp_path_factory.mktemp(name)
        tiny_model(name, torch.float64).save_pretrained(places[name])
    return places


def trained(base: Path, make: Make) -> Any:
    """A live PEFT model in eval mode whose trainable weights have moved."""
    torch.manual_seed(0)
    live = peft.get_peft_model(load_model(base, None), make())
    with torch.no_grad():
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 10
    return live.eval()


def scores(model: Any) -> torch.Tensor:
    return attribute(model, random_pairs(2, (4, 3)), "EAP", "logit_diff").per_edge


@cache
def of_base(base: Path) -> tuple[torch.Tensor, str | None]:
    model = load_model(base, None)
    return scores(model), weight_hashes(model)["weights"]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def one_circuit(base: Path, make: Make, place: Path) -> None:
    """That the three forms agree, and differ from the base."""
    live = trained(base, make)
    live.save_pretrained(place)
    there, (base_scores, base_hash) = scores(live), of_base(base)
    loaded = load_model(place, None)
    assert weight_hashes(loaded) == weight_hashes(live)
    assert weight_hashes(live)["adapter"] is not None
    if getattr(live.peft_config["default"], "bias", "none") == "none":
        assert weight_hashes(live)["weights"] == base_hash
    check_weights(place)
    wanted = logits(live)
    for other_form in (loaded, bake(live, None)):
        assert torch.allclose(logits(other_form), wanted, rtol=0, atol=1e-6)
        assert torch.allclose(scores(other_form), there, rtol=0, atol=1e-6)
    assert (there - base_scores).abs().max() > 1e-4


RARE = set(SERVED) - {"IA3", "LN_TUNING", "LORA", "OFT", "TRAINABLE_TOKENS"}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if k in RARE else []) for k in KINDS]
)
def test_live_saved_and_merged_have_one_circuit(kind, bases, tmp_path):
    one_circuit(bases["qwen2"], KINDS[kind], tmp_path)


@pytest.mark.parametrize("kind", OF_GPT2)
def test_the_same_for_gpt2(kind, bases, tmp_path):
    one_circuit(bases["gpt2"], OF_GPT2[kind], tmp_path)


@pytest.mark.parametrize("kind", ["embeddings", "tokens", "whole norms"])
def test_the_same_for_scaled_and_tied_embeddings(kind, bases, tmp_path):
    one_circuit(bases["gemma3"], KINDS[kind], tmp_path)


@pytest.mark.parametrize("start", ["olora", "pissa"])
def test_a_start_that_changes_the_base_is_found_again(start, tmp_path):
    """In float32 at most, as PEFT has it."""
    tiny_model("qwen2", torch.float32).save_pretrained(tmp_path / "base")
    live = trained(tmp_path / "base", lora(init_lora_weights=start))
    live.save_pretrained(tmp_path / "adapter")
    check_weights(tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter", None)
    assert torch.allclose(logits(loaded), logits(live), rtol=0, atol=1e-5)


def test_every_kind_that_is_served_is_held_to_it():
    assert {str(make().peft_type.value) for make in KINDS.values()} == set(SERVED)


REFUSED: dict[str, tuple[Make, str]] = {
    "prompt": (
        lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "is PROMPT_TUNING, prompt learning: what it learns stands before the prompt",
    ),
    "prefix": (
        lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "is PREFIX_TUNING, prompt learning",
    ),
    "p-tuning": (
        lambda: peft.PromptEncoderConfig(
            num_virtual_tokens=3, encoder_hidden_size=8, task_type="CAUSAL_LM"
        ),
        "is P_TUNING, prompt learning",
    ),
    "adalora": (
        other("AdaLoraConfig", total_step=9, init_r=3, target_r=2),
        "is ADALORA; served are BOFT, .*merge it with PEFT",
    ),
    "c3a": (other("C3AConfig", block_size=4), "is C3A; served are"),  # its gradients are off
    "activated": (lora(alora_invocation_tokens=[5, 6]), "has alora_invocation_tokens: it acts on"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_another_kind_is_refused_by_name(kind, bases, tmp_path):
    make, message = REFUSED[kind]
    live = peft.get_peft_model(load_model(bases["qwen2"], None), make())
    with pytest.raises(ValueError, match=f"the adapter 'default' {message}"):
        attribute(live, random_pairs())
    live.save_pretrained(tmp_path)
    for read in (load_model, lambda path, _: check_weights(path)):
        with pytest.raises(ValueError, match=f"{tmp_path} {message}"):
            read(tmp_path, None)


def test_settings_of_lora_that_no_checkpoint_can_hold_are_refused():
    replicated = lora(layer_replication=[[0, 2], [1, 2]])()
    with pytest.raises(ValueError, match="peft.args has layer_replication: its heads are not"):
        check_served(replicated, "peft.args")
    for start in ("loftq", "pissa_niter_4", "corda", "lora_ga"):
        config = SimpleNamespace(peft_type="LORA", init_lora_weights=start)
        with pytest.raises(ValueError, match=f"init_lora_weights={start}, which changes the base"):
            check_served(config, "peft.args")
    for fine in (True, False, "gaussian", "eva", "orthogonal", "pissa", "olora"):
        check_served(SimpleNamespace(peft_type="LORA", init_lora_weights=fine), "peft.args")
    check_live(SimpleNamespace(peft_config=None))


@pytest.mark.parametrize("how", ["left as they are", "LoRA", "tokens", "whole"])
def test_an_adapter_with_a_grown_vocabulary_grows_its_base(how, bases, tmp_path):
    """Tokens were added and the embeddings resized before training: their rows are in the file."""
    more = {
        "left as they are": {},
        "LoRA": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
        "tokens": {"trainable_token_indices": [55, 56]},
        "whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    }
    base = load_model(bases["qwen2"], None)
    base.resize_token_embeddings(57, mean_resizing=False)
    live = peft.get_peft_model(base, lora(**more[how])()).eval()
    live.save_pretrained(tmp_path)
    ids = torch.tensor([[3, 55, 56]])
    with torch.no_grad():
        wanted = live(input_ids=ids).logits
        assert torch.equal(load_model(tmp_path, None)(input_ids=ids).logits, wanted)
        assert torch.equal(bake(live, None)(input_ids=ids).logits, wanted)
    check_weights(tmp_path)
    assert load_config(tmp_path).vocab_size == 57
    file = tmp_path / "adapter_model.safetensors"
    head = next(name for name in load_file(file) if "lm_head" in name and "lora" not in name)
    save_file({k: v for k, v in load_file(file).items() if k != head}, file)
    for read in (load_model, lambda path, _: check_weights(path)):
        with pytest.raises(ValueError, match=f"{head} missing"):
            read(tmp_path, None)


def test_a_merge_that_changes_the_model_is_refused(bases, monkeypatch):
    live = trained(bases["qwen2"], lora())
    monkeypatch.setattr(live, "merge_and_unload", lambda: live.unload(), raising=False)
    with pytest.raises(ValueError, match="merged computes something else .*; measure it unmerged"):
        bake(live, None)
    with pytest.raises(ValueError, match="the adapter can't be merged: Impossible to merge LoRA"):
        bake(trained(bases["qwen2"], lora(lora_bias=True)), None)

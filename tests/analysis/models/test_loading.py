"""One loader: just the tensors of the model, from safetensors, or a line that says what is off."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis.models.loading import adapter_base, check_weights, load_model, load_tokenizer
from analysis.models.provenance import weight_hashes
from tests.support.models import tiny_model

Tensors = dict[str, torch.Tensor]
IDS = torch.arange(3, 9)[None]


def rewrite(file: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model("qwen2", torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(params=["lora", "dora", "whole module"])
def adapter(request: Any, tmp_path: Path, saved: Path) -> tuple[Path, Any]:
    """An adapter on the disk, and the live model that it was saved from."""
    from peft import LoraConfig, get_peft_model

    more: dict[str, Any] = {
        "dora": {"use_dora": True},
        "whole module": {"modules_to_save": ["norm"]},
    }
    config = LoraConfig(target_modules=["q_proj", "o_proj"], r=2, **more.get(request.param, {}))
    live = get_peft_model(load_model(saved, "float32"), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) / 4
    live.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", live.eval()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs, which it keeps from the root logger."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def refused(path: str | Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        load_model(path, "float32")
    assert "\n" not in str(error.value)


def test_a_saved_model_is_read_as_it_was(tmp_path, architecture):
    """Every architecture, also with a tied lm_head, which no file holds."""
    model = tiny_model(architecture, torch.float32)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, None)
    assert not loaded.training and loaded.dtype == torch.float32
    assert weight_hashes(loaded) == weight_hashes(model)
    assert torch.equal(logits(loaded), logits(model))
    assert adapter_base(tmp_path) is None
    assert load_model(tmp_path, "bfloat16").dtype == torch.bfloat16


def test_the_masks_in_old_files_of_gpt2_do_no_harm(tmp_path):
    """transformers declares them: the published files hold them still."""
    model = tiny_model("gpt2", torch.float32)
    model.save_pretrained(tmp_path)
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64)}
    rewrite(tmp_path / "model.safetensors", lambda tensors: {**tensors, **mask})
    assert weight_hashes(load_model(tmp_path, None)) == weight_hashes(model)


def test_a_model_with_other_tensors_is_refused(saved, said):
    file = saved / "model.safetensors"
    whole = load_file(file)
    refused_as: dict[str, Callable[[Tensors], Tensors]] = {
        r"just the tensors of a Qwen2ForCausalLM: model.norm.weight missing. It": without(
            "model.norm.weight"
        ),
        r": v_head.bias, v_head.weight unexpected. It": lambda tensors: {
            **tensors,
            "v_head.weight": torch.zeros(3),
            "v_head.bias": torch.zeros(3),
        },
        r"model.norm.weight is \[3\] instead of \[32\] of another shape": lambda tensors: {
            **tensors,
            "model.norm.weight": torch.zeros(3),
        },
        r"lm_head.weight missing.* and 21 more unexpected": lambda tensors: {
            **without("lm_head.weight")(tensors),
            **{f"score.{number:02}": torch.zeros(1) for number in range(24)},
        },
        r"a wrapped model: _orig_mod.lm_head.weight, .* and 24 more; save the": lambda tensors: {
            f"_orig_mod.{name}": value for name, value in tensors.items()
        },
        r"a wrapped model: module.lm_head.weight, .* and 24 more; save the": lambda tensors: {
            f"module.{name}": value for name, value in tensors.items()
        },
    }
    for match, change in refused_as.items():
        save_file(change(dict(whole)), file, metadata={"format": "pt"})
        refused(saved, match)
    save_file(whole, file, metadata={"format": "pt"})
    load_model(saved, "float32")
    assert not said.records  # the error says it all


def test_pickles_and_damaged_files_are_not_read(saved):
    file = saved / "model.safetensors"
    torch.save(load_file(file), saved / "pytorch_model.bin")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    refused(saved, "model.safetensors is damaged .Error while deserializing header")
    file.unlink()
    refused(saved, "has no weights in safetensors; write them with save_pretrained")


def test_a_name_that_is_nowhere_is_one_line(tmp_path):
    for name in ("no/such-model", "no/such/model"):
        refused(name, f"'{name}' is neither a model directory here nor a model in the cache")
    refused(tmp_path / "nowhere", f"can't load {tmp_path / 'nowhere'}: ")


def test_code_of_a_checkpoint_is_not_run(saved):
    import json

    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "mine.py").write_text("raise SystemExit('this was run')")
    refused(saved, "can't load .*/model: it brings Python code of its own")


def test_an_adapter_is_the_live_model(adapter, saved):
    path, live = adapter
    loaded = load_model(path, "float32")
    assert type(loaded) is type(live) and not loaded.training
    assert adapter_base(path) == str(saved)
    assert weight_hashes(loaded) == weight_hashes(live)
    assert torch.equal(logits(loaded), logits(live))
    assert not torch.equal(logits(loaded), logits(load_model(saved, "float32")))


def test_an_adapter_is_attached_to_the_base_that_is_given(adapter, saved):
    path, live = adapter
    moved = saved.rename(saved.with_name("elsewhere"))
    refused(path, "can't load .*/model")
    assert torch.equal(logits(load_model(path, "float32", base=str(moved))), logits(live))
    with pytest.raises(ValueError, match="the base of .*, is an adapter itself; merge it"):
        load_model(path, "float32", base=str(path))


def test_an_adapter_with_other_tensors_is_refused(adapter):
    path, _ = adapter
    file = path / "adapter_model.safetensors"
    whole = load_file(file)
    for name, tensor in whole.items():
        save_file(without(name)(whole), file)
        short = name.removesuffix(".weight")
        refused(path, f"just the tensors of an adapter of .*: {short}.* missing. It")
        save_file({**whole, name: torch.zeros(*tensor.shape, 1)}, file)
        refused(path, f"{short}.* is .* instead of .* of another shape")
    more = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
    save_file({**whole, more: torch.zeros(2, 32)}, file)
    refused(path, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.* unexpected. It")
    save_file(whole, file)
    load_model(path, "float32")


def test_pickled_adapters_are_not_read(adapter):
    path, _ = adapter
    file = path / "adapter_model.safetensors"
    torch.save(load_file(file), path / "adapter_model.bin")
    file.unlink()
    refused(path, "adapter_model.safetensors")


def test_a_base_of_an_adapter_is_held_to_the_same(adapter, saved):
    rewrite(saved / "model.safetensors", without("model.norm.weight"))
    refused(adapter[0], "just the tensors of a Qwen2ForCausalLM: model.norm.weight missing")


def test_the_tokenizer_of_an_adapter_is_that_of_its_base(tmp_path, tiny_dir):
    from peft import LoraConfig, get_peft_model

    get_peft_model(
        load_model(tiny_dir, None), LoraConfig(target_modules=["q_proj"])
    ).save_pretrained(tmp_path / "adapter")
    for base in (None, str(tiny_dir)):
        tokenizer = load_tokenizer(tmp_path / "adapter", base)
        assert tokenizer("1 + 2").input_ids == load_tokenizer(tiny_dir)("1 + 2").input_ids
        assert tokenizer.pad_token is not None


def test_an_unknown_dtype_is_named(saved):
    with pytest.raises(ValueError, match="unknown dtype 'load'; float32 and bfloat16 are two"):
        load_model(saved, "load")


def test_a_shard_index_that_does_not_fit_is_refused(tmp_path):
    import json

    tiny_model("qwen2", torch.float32).save_pretrained(tmp_path, max_shard_size="12KB")
    load_model(tmp_path, None)
    index = tmp_path / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    shard = whole["weight_map"]["model.norm.weight"]

    def named(change: dict[str, Any]) -> str:
        return json.dumps({**whole, "weight_map": {**whole["weight_map"], **change}})

    refused_as = {
        "": "index.json is not JSON",
        "[]": "has no weight_map from tensors to files",
        "{}": "has no weight_map",
        '{"weight_map": {}}': "has no weight_map",
        named({"model.norm.weight": 3}): "has no weight_map",
        named({"model.norm.weight": "../x.safetensors"}): "names the file '../x.*not in its dir",
        named({"model.norm.weight": "x.safetensors"}): "names the shard x.*, which is missing",
        named({"extra": shard}): f"names extra of {shard}, which that shard does not hold",
    }
    for text, match in refused_as.items():
        index.write_text(text)
        refused(tmp_path, match)
    fewer = {k: v for k, v in whole["weight_map"].items() if v != shard}
    index.write_text(json.dumps({**whole, "weight_map": fewer}))
    refused(tmp_path, "just the tensors of a Qwen2ForCausalLM: .* missing")
    index.unlink()
    refused(tmp_path, "shards and no model.safetensors.index.json")


def test_one_tensor_may_not_be_stored_as_two(tmp_path):
    """transformers would use both, and vLLM the embedding alone."""
    model = tiny_model("qwen3", torch.float32)
    model.save_pretrained(tmp_path)
    file, name = tmp_path / "model.safetensors", "model.embed_tokens.weight"
    embedding = load_file(file)[name]
    for also in (embedding.clone(), embedding * torch.nan):
        rewrite(file, lambda t, also=also: {**t, "lm_head.weight": also, name: also.clone()})
        load_model(tmp_path, None)
    rewrite(file, lambda t: {**t, "lm_head.weight": embedding * 2, name: embedding})
    refused(tmp_path, "ties model.embed_tokens.weight and lm_head.weight .*two different tensors")


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_numbers_without_their_scale_are_refused(saved, kind):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(saved / "model.safetensors", lambda t: {**t, name: t[name].to(kind)})
    refused(saved, f"{name} is stored as .*8.*, and config.json has no quantization_config")


def test_whatever_a_library_raises_over_a_file_is_one_line(saved):
    import json

    config = json.loads((saved / "config.json").read_text())
    for wrong in (
        {"num_hidden_layers": "x"},
        {"layer_types": ["x"]},
        {"hidden_act": "nope"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    ):
        (saved / "config.json").write_text(json.dumps({**config, **wrong}))
        refused(saved, "can't load .*/model: [A-Z].*rror")
    (saved / "config.json").write_text("null")
    refused(saved, "can't load .*/model: ")


def test_a_damaged_adapter_config_is_one_line(adapter):
    import json

    path, _ = adapter
    file = path / "adapter_config.json"
    whole = json.loads(file.read_text())
    for wrong, match in {
        "[]": "adapter_config.json is damaged",
        "{": "adapter_config.json is damaged",
        "{}": "adapter_config.json is damaged .'base_model_name_or_path'",
        json.dumps({**whole, "base_model_name_or_path": None}): "names no base",
        json.dumps({**whole, "peft_type": "NOPE"}): "can't load .*: .*NOPE",
        json.dumps({**whole, "target_modules": ["nowhere"]}): "is not an adapter of .*: .*target",
    }.items():
        file.write_text(wrong)
        refused(path, match)
    file.write_text(json.dumps({**whole, "base_model_name_or_path": None}))
    load_model(path, None, base=whole["base_model_name_or_path"])


def test_wrapped_adapters_are_refused_by_their_prefix(adapter):
    file = adapter[0] / "adapter_model.safetensors"
    whole = load_file(file)
    for prefix in ("_orig_mod.", "module."):
        for old, new in (("base_", f"{prefix}base_"), ("model.model.", f"model.{prefix}model.")):
            save_file({name.replace(old, new, 1): t for name, t in whole.items()}, file)
            refused(adapter[0], f"was saved from a wrapped model: .*{prefix}")


def test_weights_can_be_checked_without_being_read(saved, adapter):
    for path in (saved, adapter[0]):
        check_weights(path)
    check_weights(adapter[0], str(saved))
    rewrite(adapter[0] / "adapter_model.safetensors", lambda t: dict(list(t.items())[1:]))
    with pytest.raises(ValueError, match="just the tensors of an adapter of .* missing"):
        check_weights(adapter[0])
    rewrite(saved / "model.safetensors", without("model.norm.weight"))
    with pytest.raises(ValueError, match="Qwen2ForCausalLM: model.norm.weight missing"):
        check_weights(saved)

"""What a configuration says of a model: also of one that wraps a language model with others."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from analysis.evaluation.conditions import check_room
from analysis.interventions.operations import read_reference
from analysis.models.configuration import auto_class, context, empty_model, room, vocabulary
from analysis.models.loading import check_weights, load_config, load_model, load_tokenizer
from analysis.models.processor import copy_processor
from analysis.models.provenance import weight_hashes
from tests.support.models import tiny_model, tiny_wrapper

IDS = torch.arange(3, 9)[None]


@pytest.mark.parametrize("kind", ["gemma3", "llava", "qwen3_5"])
def test_a_multimodal_model_is_read_whole(kind, tmp_path):
    """gemma3: its files have other names; qwen3_5: AutoModelForCausalLM takes the text part."""
    model = tiny_wrapper(kind)
    model.save_pretrained(tmp_path)
    check_weights(tmp_path)
    loaded, config = load_model(tmp_path, None), load_config(tmp_path)
    assert type(loaded) is type(model)
    assert weight_hashes(loaded) == weight_hashes(model)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert (vocabulary(config), context(config)) == (50, 512)
    assert type(empty_model(config)) is type(model)
    config.architectures = None  # as nobody says what the files hold
    assert auto_class(config).__name__ == (
        "AutoModelForMultimodalLM" if kind == "llava" else "AutoModelForCausalLM"
    )


def test_the_numbers_of_a_multimodal_model_are_held_to_the_same(tmp_path):
    from safetensors.torch import load_file, save_file

    file = tmp_path / "model.safetensors"
    tiny_wrapper("gemma3").save_pretrained(tmp_path)
    whole = load_file(file)
    embedding = whole["language_model.model.embed_tokens.weight"]
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    for change, match in (
        ({name: whole[name].to(torch.int8)}, f"{name} is stored as I8"),
        ({"language_model.lm_head.weight": embedding * 2}, "hold two different tensors"),
        ({"score.weight": embedding.clone()}, "score.weight unexpected"),
    ):
        save_file({**whole, **change}, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=match):
            load_model(tmp_path, None)


def test_an_adapter_may_sit_on_a_multimodal_model(tmp_path):
    from peft import LoraConfig, get_peft_model

    tiny_wrapper("gemma3", 50).save_pretrained(tmp_path / "base")
    base = load_model(tmp_path / "base", "float32")
    base.resize_token_embeddings(53, mean_resizing=False)
    targets = r".*language_model.*\.(q_proj|embed_tokens)"
    live = get_peft_model(base, LoraConfig(target_modules=targets, r=2, init_lora_weights=False))
    live.save_pretrained(tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter", None)
    assert weight_hashes(loaded) == weight_hashes(live)
    assert vocabulary(load_config(tmp_path / "adapter")) == 53


@pytest.mark.parametrize(
    "name, options, limit",
    [
        ("GPT2", {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}, 16),
        ("OPT", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}, 16),
        ("GPTJ", {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "rotary_dim": 4}, 16),
        ("Llama", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}, None),
    ],
)
def test_positions_that_are_a_table_have_an_end(name, options, limit):
    """Embeddings that are learned, with OPT's two rows more, and a buffer; not rotary ones."""
    import transformers

    config = getattr(transformers, f"{name}Config")(
        vocab_size=20, max_position_embeddings=16, **options
    )
    state = torch.get_rng_state()
    assert room(config, 17) == limit and room(config, 16) is None
    assert torch.equal(state, torch.get_rng_state())


def test_whoever_needs_positions_asks_for_them(tmp_path, tiny_dir):
    tokenizer, config = load_tokenizer(tiny_dir), tiny_model("gpt2").config
    requests: Any = [SimpleNamespace(prompt="1+2=" * 8)]
    with pytest.raises(ValueError, match=r"positions for 64 tokens; give max_new_tokens=32"):
        check_room(config, tokenizer, requests, 100)
    file = tmp_path / "pairs.jsonl"
    pair = {"clean_ids": [3] * 65, "corrupted_ids": [4] * 65, "target_id": 5, "foil_id": 6}
    file.write_text(json.dumps(pair))
    with pytest.raises(ValueError, match="64"):
        read_reference(file, tokenizer, config)
    assert len(read_reference(file, tokenizer, tiny_model("qwen2").config)[0]) == 65


def test_what_is_no_language_model_is_one_line(tmp_path):
    import transformers

    config = transformers.CLIPConfig()
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(ValueError, match="can't load .*'clip' is no type of language model"):
        load_model(tmp_path, None)


def test_a_processor_goes_with_its_model(tmp_path, tiny_dir):
    """Its template is the tokenizer's where that has none; its files stand beside a checkpoint."""
    (tiny_dir / "chat_template.jinja").unlink()
    assert not load_tokenizer(tiny_dir).chat_template
    (tiny_dir / "chat_template.json").write_text('{"chat_template": "{{ messages }}"}')
    (tiny_dir / "preprocessor_config.json").write_text("{}")
    assert load_tokenizer(tiny_dir).chat_template == "{{ messages }}"
    (tmp_path / "out").mkdir()
    copy_processor(tiny_dir, tmp_path / "out")
    found = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert found == ["chat_template.json", "preprocessor_config.json"]
    (tiny_dir / "chat_template.json").write_text("{}")
    with pytest.raises(ValueError, match="chat_template.json is damaged"):
        load_tokenizer(tiny_dir)

"""A multimodal model is trained on text: its language model, whose heads are tracked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.models.loading import load_model, load_tokenizer
from analysis.models.provenance import weight_hashes
from analysis.records.record_files import read_records
from tests.support.models import tiny_wrapper
from tests.support.runs import small


@pytest.fixture
def wrapper(tmp_path: Path, tiny_dir: Path) -> Path:
    """A Gemma 3 with eyes, which reads as the embedded tiny model does, and its processor."""
    tokenizer, place = load_tokenizer(tiny_dir), tmp_path / "wrapper"
    tiny_wrapper("gemma3", len(tokenizer)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    (place / "preprocessor_config.json").write_text("{}")
    return place


@pytest.mark.distributed
def test_the_language_model_of_a_wrapper_is_trained_and_tracked(wrapper, compose, tmp_path):
    from train.run import prepare, run

    out = tmp_path / "run"
    run(prepare(compose("sft", *small("sft", wrapper, out))))
    records = read_records(out)
    assert [record.step for record in records] == [0, 2, 4]
    last = load_model(out / "checkpoint-4", "float32")
    assert type(last).__name__ == "Gemma3ForConditionalGeneration"
    hashes = [record.origin["model"]["weights"] for record in records]
    assert hashes[2] == weight_hashes(last)["weights"] and len(set(hashes)) == 3
    first = load_model(wrapper, "float32")
    seen = [dict(m.model.vision_tower.named_parameters()) for m in (first, last)]
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    assert (out / "checkpoint-4" / "preprocessor_config.json").is_file()


def test_what_heads_are_not_found_in_is_said_before_a_step(tiny_dir, compose, tmp_path, capsys):
    """Its layers are given embeddings of their own; the run's directory is not begun."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    from train.run import run_or_exit

    tokenizer: Any = load_tokenizer(tiny_dir)
    config = Gemma4TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size_per_layer_input=len(tokenizer),
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention"],
    )
    place = tmp_path / "gemma4"
    Gemma4ForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    with pytest.raises(SystemExit):
        run_or_exit(compose("sft", *small("sft", place, tmp_path / "run")))
    assert "error: layer 0: beside the residual stream" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()

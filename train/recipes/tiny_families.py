"""Tiny models of other families, with random weights: they show what a Qwen3 does not have.

    tiny_moe      Qwen3-MoE: 8 experts in each layer, of which a token takes 2; 1.6 M parameters
    tiny_hybrid   Qwen3.5: two layers of gated delta rule and two of attention with gated heads
    tiny_neox     GPT-NeoX, as Pythia: attention and MLP side by side, q, k and v in one projection

Width, depth, heads and tokenizer are those of the embedded tiny Qwen3 (train/recipes/tiny.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.recipes.tiny import build_tokenizer

_GROUPED: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True}
_OF: dict[str, dict[str, Any]] = {
    "tiny_moe": {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "norm_topk_prob": True,
        **_GROUPED,
    },
    "tiny_hybrid": {
        "model_type": "qwen3_5_text",
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "intermediate_size": 384,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        **_GROUPED,
    },
    "tiny_neox": {
        "model_type": "gpt_neox",
        "intermediate_size": 384,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    },
}
FAMILIES = tuple(_OF)


def build_family(name: str, directory: Path, seed: int) -> None:
    """Write the model of one of FAMILIES, and its tokenizer, as a Hugging Face directory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = build_tokenizer()
    config = AutoConfig.for_model(
        **_OF[name],
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)

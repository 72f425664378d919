"""A model built by hand whose circuit is known: two heads that must be used, and ten that need not.

The task is to repeat the only digit of the question. L0H1 attends to digits and copies which digit
it is into a subspace of the residual stream; L2H2 moves that into the subspace that the unembedding
reads. After a digit the model ends its answer by a direct path. All other heads write small noise
into directions of their own, and the MLPs write nothing.

Residual dimensions: 0-9 which digit, 10 is a digit, 11 constant, 12-21 copied digit, 22-31 output,
32-63 the token's own noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from analysis.prompts.pairs import Pair, Pairs
from analysis.prompts.problems import Problem
from train.recipes.tiny import build_tokenizer

HEADS = ["L0H1", "L2H2"]
PROBLEMS = [Problem(f"{letter}{digit}", str(digit)) for letter in "abcd" for digit in range(10)]
_STILL = 7  # the pair of head dimensions that rotary position embedding hardly turns


def build_copier(dtype: torch.dtype = torch.float32) -> Any:
    """The model; its tokenizer is train.recipes.tiny.build_tokenizer()."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    digits = [tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)]
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.zero_()
        embedding[:, 11] = 1
        embedding[:, 32:] = 0.3 * noise(len(tokenizer), 32)
        head.copy_(0.1 * noise(*head.shape))
        for digit, token in enumerate(digits):
            embedding[token, digit] = 1
            embedding[token, 10] = 1
            head[token] = 0
            head[token, 22 + digit] = 10
        head[tokenizer.eos_token_id] = 0
        head[tokenizer.eos_token_id, 10] = 400
        for layer in model.model.layers:
            attention = layer.self_attn
            for part in (attention.q_proj, attention.k_proj, attention.v_proj):
                part.weight.copy_(0.05 * noise(*part.weight.shape))
            attention.o_proj.weight.zero_()
            attention.o_proj.weight[32:] = 0.05 * noise(32, 64)
            for part in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
                part.weight.zero_()
        _head(model, 0, head=1, attends_to=10, strength=20, reads=0, writes=12)
        _head(model, 2, head=2, attends_to=11, strength=0, reads=12, writes=22)
    return model


def _head(
    model: Any, layer: int, head: int, attends_to: int, strength: float, reads: int, writes: int
) -> None:
    """One head that attends to tokens with a feature and moves ten dimensions."""
    attention = model.model.layers[layer].self_attn
    query, key = head * 16, head // 2 * 16
    attention.q_proj.weight[query : query + 16] = 0
    attention.q_proj.weight[query + _STILL, 11] = strength
    attention.k_proj.weight[key : key + 16] = 0
    attention.k_proj.weight[key + _STILL, attends_to] = strength
    attention.v_proj.weight[key : key + 16] = 0
    attention.o_proj.weight[:, query : query + 16] = 0
    for digit in range(10):
        attention.v_proj.weight[key + digit, reads + digit] = 1
        attention.o_proj.weight[writes + digit, query + digit] = 3


def save_copier(directory: Path) -> None:
    """The model and its tokenizer as a Hugging Face directory."""
    build_copier().save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)


def copier_pairs(count: int) -> Pairs:
    """Repeat the digit of the question; the corrupted prompt has another letter and digit."""
    tokenizer = build_tokenizer()

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    def one(question: str, answer: str) -> Pair:
        other = str((int(answer) + 3) % 10)
        known = (tokenizer.convert_tokens_to_ids(digit) for digit in (answer, other))
        return Pair(ids(f"{question}="), ids(f"{chr(ord(question[0]) + 4)}{other}="), *known)

    return Pairs([one(p.question, p.answer) for p in PROBLEMS[:count]])

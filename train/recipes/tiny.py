"""The embedded tiny model: a Qwen3 of 4 layers x 8 heads and a tokenizer built here from nothing.

The tokenizer has one token for each byte, so any text can be written and every digit is one token,
and one for each tag and role. The chat template is Qwen's, with the think switch:
`enable_thinking=False` opens the answer with an empty think block.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.files import short_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3Config

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
WORDS = ["system", "user", "assistant", "<think>", "</think>", "<answer>", "</answer>"]

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
{%- else %}
{{- message.content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 266 entries with the chat template above."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {byte: index for index, byte in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (PAD, START, END)])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """Qwen3 with grouped queries (8 heads, 4 key/value heads) and q/k norms; 0.8 M parameters."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_random(directory: Path, seed: int) -> None:
    """Write the tiny model with random weights, and its tokenizer, as a Hugging Face directory."""
    import torch
    from transformers import Qwen3ForCausalLM

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(tiny_config(tokenizer))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def fingerprint() -> str:
    """Changes whenever this file does, so that a cached model is never of another definition."""
    return short_hash(Path(__file__).read_bytes(), 8)

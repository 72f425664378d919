"""The loader of models and tokenizers that are measured: a directory, a hub name or an adapter.

Weights come from safetensors files only, no code of a checkpoint is run, and a checkpoint must hold
exactly the tensors of its model: transformers and PEFT fill a missing one with random numbers.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.files import hash_of_parts

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    # what the functions here give, for annotations
    Model = PreTrainedModel | PeftModel
    Config = PreTrainedConfig
    Tokenizer = PreTrainedTokenizerBase

DTYPES = ("float32", "float64", "bfloat16")
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_SOME = 2**20  # bytes of a file's beginning and end that its fingerprint reads
_WRAPPERS = ("_orig_mod.", "module.")  # what torch.compile and DDP put before a tensor's name
_NAMED = 3  # tensors that an error names

log = logging.getLogger(__name__)


def load_model(
    path: str | Path, dtype: str | None, device: str = "auto", base: str | None = None
) -> Model:
    """A model in eval mode; an adapter is attached to its base by PEFT and not merged.

    dtype: None is that of its files. device: `auto` is the GPU if there is one. base: the model
    that an adapter belongs to, instead of the one it names; for a whole model it has no effect.

    Raises:
        ValueError: it can't be read, has no safetensors, or has other tensors than its model (some
            of them are named); or the dtype is unknown.
    """
    import torch

    kind = None if dtype is None else getattr(torch, dtype, None)
    if dtype is not None and not isinstance(kind, torch.dtype):
        raise ValueError(f"unknown dtype {dtype!r}; float32 and bfloat16 are two")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    named = adapter_base(path)
    model: Any = _whole(path, kind) if named is None else _attached(path, base or named, kind)
    return model.to(device).eval()


def load_config(path: str | Path, base: str | None = None) -> Config:
    """The configuration of a model, or of an adapter's base; `base` as in `load_model`."""
    from transformers import AutoConfig

    named = adapter_base(path)
    return _read(AutoConfig, path if named is None else base or named)


def load_tokenizer(path: str | Path, base: str | None = None) -> Tokenizer:
    """The tokenizer of a model, with a padding token; that of its base for an adapter without one.

    `base` as in `load_model`.
    """
    from transformers import AutoTokenizer

    named = adapter_base(path)
    if named is not None and not (Path(path).expanduser() / "tokenizer_config.json").is_file():
        path = base or named
    tokenizer = _read(AutoTokenizer, path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_tokenizer_if_any(path: str | Path) -> Tokenizer | None:
    """The tokenizer of a model or adapter, or None, with a note in the log, if it has none."""
    try:
        return load_tokenizer(path)
    except ValueError as error:
        log.info("no tokenizer, so operands, answers and tags of prompts are unknown: %s", error)
        return None


def adapter_base(path: str | Path) -> str | None:
    """The model that an adapter names as its base; None for a whole model.

    Raises:
        ValueError: there is no such model on the hub.
    """
    from transformers.utils import find_adapter_config_file

    try:
        config = find_adapter_config_file(_place(path))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if config is None:
        return None
    return str(json.loads(Path(config).read_text(encoding="utf-8"))["base_model_name_or_path"])


def fingerprint(path: str | Path) -> str | None:
    """Tells the weights in a directory from others, by their sizes, beginnings and ends.

    None for a hub name, which stands for itself.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        return None

    def parts() -> Iterator[bytes]:
        for file in sorted(place.glob("*.safetensors")):
            with open(file, "rb") as content:
                yield f"{file.name} {file.stat().st_size}".encode() + content.read(_SOME)
                content.seek(-min(_SOME, file.stat().st_size), os.SEEK_END)
                yield content.read()

    return hash_of_parts(parts())


def _place(path: str | Path) -> str:
    """A directory with its ~ expanded, or a hub name as it is."""
    directory = Path(path).expanduser()
    return str(directory) if directory.is_dir() else str(path)


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"can't load {path}: {str(error).strip().splitlines()[0]}")


def _read(kind: Any, path: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained`, with its failure as one line; ValueError."""
    from safetensors import SafetensorError

    try:
        return kind.from_pretrained(_place(path), trust_remote_code=False, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _whole(path: str | Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """A model that is no adapter, all its tensors from the files."""
    from transformers import AutoModelForCausalLM

    directory = Path(path).expanduser()
    if directory.is_dir() and not any(directory.glob("*.safetensors")):
        raise ValueError(f"{path} has no weights in safetensors; write them with save_pretrained")
    with _no_report():
        model, found = _read(
            AutoModelForCausalLM,
            path,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else transformers raises before it gives the names
        )
    shapes = [
        f"{name} is {list(there)} instead of {list(wanted)}"
        for name, there, wanted in found["mismatched_keys"]
    ]
    what = f"the tensors of a {type(model).__name__}"
    _check(path, what, found["missing_keys"], found["unexpected_keys"], shapes)
    return model


def _attached(path: str | Path, base: str, dtype: torch.dtype | None) -> PeftModel:
    """An adapter on its base, all its tensors from the file."""
    from peft import PeftConfig, get_peft_model
    from transformers.utils import cached_file

    if adapter_base(base) is not None:
        raise ValueError(f"{base}, the base of {path}, is an adapter itself; merge it and save it")
    try:
        weights = cached_file(_place(path), ADAPTER_WEIGHTS)
        directory = str(Path(str(weights)).parent)
        config = PeftConfig.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    config.inference_mode = True
    config.base_model_name_or_path = _place(base)
    model = get_peft_model(_whole(base, dtype), config)
    what = f"the tensors of an adapter of {base}"
    try:
        found = model.load_adapter(directory, "default", torch_device="cpu")
    except KeyError as error:  # PEFT looks for a module that is saved whole
        _check(path, what, missing=[str(error.args[0])])
        raise
    except RuntimeError as error:  # torch lists the shapes, a line for each
        _check(path, what, shapes=[x.strip() for x in str(error).splitlines() if "size mis" in x])
        raise
    _check(path, what, found.missing_keys, found.unexpected_keys)
    return model


@contextmanager
def _no_report() -> Iterator[None]:
    """Inside, transformers logs no table of the tensors that differ: the error names them."""
    logger = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(keep)  # to raise its level would make transformers log more
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _check(
    path: str | Path,
    what: str,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    shapes: Sequence[str] = (),
) -> None:
    """Raise ValueError, with some of the names, if a checkpoint has not just the right tensors.

    What transformers and PEFT may leave out, such as a tied lm_head, they have left out of these.
    """
    wrapped = [name for name in unexpected if name.startswith(_WRAPPERS)]
    if wrapped:
        raise ValueError(
            f"{path} was saved from a wrapped model: {_some(wrapped)}; save the model inside the "
            "wrapper (accelerator.unwrap_model), or take the prefix off the names"
        )
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    wrong = [f"{_some(names)} {kind}" for kind, names in kinds.items() if names]
    if wrong:
        raise ValueError(
            f"{path} does not have just {what}: {'; '.join(wrong)}. It is damaged, or its config "
            "is that of another model; save it again with save_pretrained"
        )


def _some(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    first, more = sorted(names)[:_NAMED], len(names) - _NAMED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")

"""The loader of models and tokenizers that are measured: a directory, a hub name or an adapter.

Weights come from safetensors files only, no code of a checkpoint is run, and a checkpoint must hold
exactly the tensors of its model: transformers and PEFT fill a missing one with random numbers.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.files import hash_of_parts
from analysis.models import hub
from analysis.models.adapters import ADAPTER_WEIGHTS, attach, rows_in_file
from analysis.models.configuration import auto_class
from analysis.models.processor import processor_template
from analysis.models.weights import check_numbers, check_tied, header, stored_tensors

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    # what the functions here give, for annotations
    Model = PreTrainedModel | PeftModel
    Config = PreTrainedConfig
    Tokenizer = PreTrainedTokenizerBase

DTYPES = ("float32", "float64", "bfloat16", "float16")

_SOME = 2**20  # bytes of a file's beginning and end that its fingerprint reads
# what torch.compile, DDP, FSDP and PEFT put before a tensor's name, and inside an adapter's
_WRAPPED = re.compile(
    r"(^|\.)(_orig_mod|module|_fsdp_wrapped_module)\.|^base_model\.model\.(?!.*(lora_|modules_to_))"
)
_NAMED = 3  # tensors that an error names

log = logging.getLogger(__name__)


def load_model(
    path: str | Path,
    dtype: str | None,
    device: str = "auto",
    base: str | None = None,
    bare: str | None = None,
) -> Model:
    """A model in eval mode; an adapter is attached to its base by PEFT and not merged.

    dtype: None is that of its files. device: `auto` is the GPU if there is one. base: the model
    that an adapter belongs to, instead of the one it names; for a whole model it has no effect.
    bare: the model whose configuration is taken for weights that stand without one.

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
    named, on_meta = adapter_base(path), device == "meta"
    model: Any
    if named is None:
        model = _whole(path, kind, on_meta, bare)
    else:
        model = _attached(path, _base_of(path, base or named), kind, on_meta)
    return model.to(device).eval()


def check_weights(path: str | Path, base: str | None = None) -> None:
    """Raise ValueError where `load_model` would; no tensor of a model's files is read.

    For whoever has a checkpoint read by another library, which fills what is missing with random
    numbers. Quantised files are passed over. `base` as in `load_model`.
    """
    if getattr(load_config(path, base), "quantization_config", None) is None:
        load_model(path, None, "meta", base)


def load_config(path: str | Path, base: str | None = None) -> Config:
    """The configuration of a model, or of an adapter on its base; `base` as in `load_model`."""
    from transformers import AutoConfig

    named = adapter_base(path)
    config: Config = _read(AutoConfig, path if named is None else _base_of(path, base or named))
    if named is not None:  # with the vocabulary that the adapter was trained with
        stored = header(_adapter_directory(path) / ADAPTER_WEIGHTS)
        text = config.get_text_config()
        text.vocab_size = rows_in_file(stored) or text.vocab_size
    return config


def load_tokenizer(path: str | Path, base: str | None = None) -> Tokenizer:
    """The tokenizer of a model, with a padding token; that of its base for an adapter without one.

    Of a multimodal model it is the one of its processor. `base` as in `load_model`.
    """
    from transformers import AutoTokenizer

    named = adapter_base(path)
    if named is not None and not (Path(_place(path)) / "tokenizer_config.json").is_file():
        path = _base_of(path, base or named)
    tokenizer = _read(AutoTokenizer, path)
    if not tokenizer.chat_template:
        tokenizer.chat_template = processor_template(Path(_place(path)))
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
    """The model that an adapter names as its base, with its revision; None for a whole model.

    It is "" if the adapter names none.

    Raises:
        ValueError: there is no such model on the hub.
    """
    from transformers.utils import find_adapter_config_file

    place = _place(path)
    try:
        config = find_adapter_config_file(place)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if config is None:
        return None
    try:
        content = json.loads(Path(config).read_text(encoding="utf-8"))
        named, revision = content["base_model_name_or_path"], content.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config} is damaged ({error}); save the adapter again") from error
    if not isinstance(named, str) or not named:
        return ""
    return hub.join(named, revision) if hub.is_hub_name(named) else named


def fingerprint(path: str | Path) -> str | None:
    """Tells the weights in a directory from others, by their sizes, beginnings and ends.

    Those of a hub model have their commit.
    """
    if (commit := hub.commit_of(path)) is not None:
        return commit
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


def _place(path: str | Path, weights: bool = False) -> str:
    """The directory of a model, or of a hub model's commit in the cache."""
    return str(hub.place(path, weights))


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    known = isinstance(error, (OSError, ValueError)) or "afetensor" in type(error).__name__
    text = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
    if "trust_remote_code" in text or "custom code" in text:
        return ValueError(
            f"can't load {path}: it brings Python code of its own (auto_map in its configuration), "
            "and no code that comes with a model is run; use a model that transformers knows"
        )
    return ValueError(f"can't load {path}: {text if known else f'{type(error).__name__}: {text}'}")


def _read(kind: Any, path: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained`, with its failure as one line; ValueError.

    What libraries raise over a foreign file has no common class.
    """
    place = _place(path, weights=kind.__name__.startswith("AutoModel"))
    try:
        found = kind.from_pretrained(place, trust_remote_code=False, **options)
    except Exception as error:
        raise _unreadable(path, error) from error
    if hub.is_hub_name(path):  # what is written later names the model, not this machine's cache
        commit = hub.commit_of(path)
        name_hub_model(found[0] if isinstance(found, tuple) else found, str(path), commit)
    return found


def name_hub_model(found: Any, name: str, commit: str | None) -> None:
    """Have a model, configuration or tokenizer name what it stands for, not where it was read."""
    from analysis.models.compat import set_commit

    for part in (found, getattr(found, "config", None)):
        if part is not None:
            part.name_or_path = name
            set_commit(part, commit)


def _whole(
    path: str | Path,
    dtype: torch.dtype | None,
    on_meta: bool = False,
    bare: str | None = None,
) -> PreTrainedModel:
    """A model that is no adapter, all its tensors from the files; on_meta: without their values.

    bare: as in `load_model`.
    """
    directory = Path(_place(path, weights=True))
    stored = stored_tensors(directory) if directory.is_dir() else {}
    given: dict[str, Any] = {}
    if bare is not None and not (directory / "config.json").is_file():
        log.warning("%s has no config.json; that of %s is taken", path, bare)
        given["config"] = load_config(bare)
        name_hub_model(given["config"], str(path), None)
    kind = auto_class(given.get("config") or load_config(path))
    with _no_report():
        model, found = _read(
            kind,
            path,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else transformers raises before it gives the names
            **({"device_map": "meta"} if on_meta else {}),
            **given,
        )
    shapes = [
        f"{name} is {list(there)} instead of {list(wanted)}"
        for name, there, wanted in found["mismatched_keys"]
    ]
    what = f"the tensors of a {type(model).__name__}"
    _check(path, what, found["missing_keys"], found["unexpected_keys"], shapes)
    check_numbers(path, model, stored)
    check_tied(path, model, stored)
    return model


def _attached(
    path: str | Path, base: str, dtype: torch.dtype | None, on_meta: bool = False
) -> PeftModel:
    """An adapter on its base, all its tensors from the file."""
    if adapter_base(base) is not None:
        raise ValueError(f"{base}, the base of {path}, is an adapter itself; merge it and save it")
    directory = _adapter_directory(path)
    try:
        model, found = attach(_whole(base, dtype, on_meta), directory, str(path))
    except (OSError, KeyError, TypeError) as error:  # of a damaged adapter_config.json
        raise _unreadable(path, error) from error
    what = f"the tensors of an adapter of {base}"
    _check(path, what, found.missing, found.unexpected, found.shapes, found.unread)
    return model


def _base_of(path: str | Path, named: str) -> str:
    if not named:
        raise ValueError(
            f"the adapter {path} names no base (base_model_name_or_path in its "
            "adapter_config.json); write the directory or hub name of its base there"
        )
    return named


def _adapter_directory(path: str | Path) -> Path:
    from transformers.utils import cached_file

    place = _place(path)
    try:
        return Path(str(cached_file(place, ADAPTER_WEIGHTS))).parent
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


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
    unread: Sequence[str] = (),
) -> None:
    """Raise ValueError, with some of the names, if a checkpoint has not just the right tensors.

    What transformers and PEFT may leave out, such as a tied lm_head, they have left out of these.
    """
    wrapped = [name for name in unexpected if _WRAPPED.search(name)]
    if wrapped:
        raise ValueError(
            f"{path} was saved from a wrapped model: {_some(wrapped)}; save the model inside the "
            "wrapper (accelerator.unwrap_model; merge_and_unload of a PEFT model), or take the "
            "prefix off the names"
        )
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    kinds["not taken by PEFT"] = unread
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

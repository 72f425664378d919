"""What a checkpoint's safetensors files say of themselves: names, types and shapes of tensors.

Only their headers are read. A file of numbers that are no floats, a shard index that names what no
shard holds, or two different tensors where the configuration has one, is read without a word by
transformers; here it is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors names them


@dataclass(frozen=True)
class Stored:
    """A tensor of a file, as the file's header has it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def header(file: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file by name.

    Raises:
        ValueError: the file can't be read, or is cut short.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as content:
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            return {
                name: Stored(file, str(part.get_dtype()), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{file} is damaged ({str(error).strip()}); copy or save the checkpoint again"
        ) from error


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """The tensors of a model's directory by name: of its one file, or of the shards of its index.

    Raises:
        ValueError: there are none, a file is damaged or away, or the index does not fit its shards.
    """
    if (directory / SINGLE).is_file():  # which transformers takes, whatever else is there
        return header(directory / SINGLE)
    if (directory / INDEX).is_file():
        return _of_shards(directory)
    if shards := sorted(directory.glob("model-*-of-*.safetensors")):
        raise ValueError(f"{directory} has {len(shards)} shards and no {INDEX}; copy that file too")
    raise ValueError(f"{directory} has no weights in safetensors; write them with save_pretrained")


def _of_shards(directory: Path) -> dict[str, Stored]:
    index = directory / INDEX
    named = _weight_map(index)
    found: dict[str, Stored] = {}
    for file in sorted(set(named.values())):
        if Path(file).name != file:
            raise ValueError(f"{index} names the file {file!r}, which is not in its directory")
        if not (directory / file).is_file():
            raise ValueError(
                f"{index} names the shard {file}, which is missing; copy the checkpoint again"
            )
        found |= header(directory / file)
    if nowhere := sorted(name for name, file in named.items() if _file_of(found, name) != file):
        raise ValueError(
            f"{index} names {nowhere[0]} of {named[nowhere[0]]}, which that shard does not hold; "
            "copy the checkpoint again"
        )
    return {name: found[name] for name in named}


def _file_of(found: dict[str, Stored], name: str) -> str | None:
    return found[name].file.name if name in found else None


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> shard, of a shard index."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{index} is not JSON ({error}); copy the checkpoint again") from error
    named = content.get("weight_map") if isinstance(content, dict) else None
    texts = isinstance(named, dict) and all(isinstance(file, str) for file in named.values())
    if not texts or not named:
        raise ValueError(
            f"{index} has no weight_map from tensors to files; copy the checkpoint again"
        )
    assert isinstance(named, dict)
    return named


def check_numbers(path: object, model: PreTrainedModel, stored: dict[str, Stored]) -> None:
    """That a model that is not quantised was read from floats.

    Raises:
        ValueError: a parameter's file holds integers or 8-bit floats, whose scales are unknown.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return
    known = {_tail(name) for name, _ in model.named_parameters()}
    for name, tensor in stored.items():
        if _tail(name) in known and tensor.dtype not in FLOATS:
            raise ValueError(
                f"{path}: {name} is stored as {tensor.dtype}, and config.json has no "
                "quantization_config that says how to read it; save the model in a float type"
            )


def check_tied(path: object, model: PreTrainedModel, stored: dict[str, Stored]) -> None:
    """That files hold one tensor where the configuration ties lm_head to the embedding.

    Raises:
        ValueError: they hold two that differ: transformers would use both, and vLLM only one.
    """
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    ends: tuple[Any, ...] = (model.get_input_embeddings(), model.get_output_embeddings())
    wanted = {
        _tail(name): tuple(parameter.shape)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if any(parameter is end.weight for end in ends if end is not None)
    }
    held = {n: tensor for n, tensor in stored.items() if wanted.get(_tail(n)) == tensor.shape}
    names = sorted(held, key=lambda name: name.endswith("lm_head.weight"))
    if len(held) < 2 or _equal([(name, held[name]) for name in names]):
        return
    raise ValueError(
        f"{path} ties {' and '.join(names)} (tie_word_embeddings in config.json), and its files "
        "hold two different tensors; set tie_word_embeddings to false, or save the model again"
    )


def _tail(name: str) -> str:
    """The end of a tensor's name, which is the same where a file and a model differ in the rest.

    >>> _tail("language_model.model.embed_tokens.weight")
    'embed_tokens.weight'
    """
    return ".".join(name.split(".")[-2:])


def _equal(places: list[tuple[str, Stored]]) -> bool:
    from safetensors import safe_open

    def tensors() -> Iterator[torch.Tensor]:
        for name, tensor in places:
            with safe_open(tensor.file, framework="pt") as content:
                yield content.get_tensor(name)

    first, *others = tensors()
    return all(same_values(first, other) for other in others)


def same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers; what is no number in both is the same."""
    return bool(a.shape == b.shape and ((a == b) | (a.isnan() & b.isnan())).all())

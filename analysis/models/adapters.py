"""Adapters: which of PEFT's are read, and how one is attached to its base with every tensor told.

Served are those whose live model, saved adapter and merged weights have the same circuit
(tests/analysis/models/test_adapters.py holds each to it). Any other is refused by name: prompt
learning lives outside the modules that are measured, so that the circuit would be the base's, and
some adapters depend on the token or have gradients of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from analysis.models.weights import FLOATS, Stored, header, same_values

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"
SERVED = (
    *("BOFT", "DELORA", "FOURIERFT", "GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR"),
    *("LORA", "MISS", "OFT", "RANDLORA", "ROAD", "TRAINABLE_TOKENS", "VERA", "WAVEFT"),
)
# initialisations after which the base's weights can be found again, or were never changed
_STARTS = ("gaussian", "eva", "orthogonal", "pissa", "olora", "true", "false")
_MERGE = "merge it with PEFT (merge_and_unload) and save the model"


def kind_of(config: Any) -> str:
    """The kind of adapter of a PeftConfig, as PEFT spells it: `LORA`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def check_served(config: Any, what: str) -> None:
    """Raise ValueError unless an adapter of this PeftConfig can be measured, saved and read again.

    `what` names it in the error.
    """
    kind = kind_of(config)
    if getattr(config, "is_prompt_learning", False):
        raise ValueError(
            f"{what} is {kind}, prompt learning: what it learns stands before the prompt and not "
            "in the heads, and would be left out; train with LoRA, or all weights"
        )
    if kind not in SERVED:
        raise ValueError(f"{what} is {kind}; served are {', '.join(SERVED)}; {_MERGE}")
    if getattr(config, "alora_invocation_tokens", None):
        raise ValueError(
            f"{what} has alora_invocation_tokens: it acts on some tokens of a prompt only, so the "
            "heads are not the same everywhere; train without"
        )
    if getattr(config, "layer_replication", None):
        raise ValueError(
            f"{what} has layer_replication: its heads are not those of the model; {_MERGE}"
        )
    start = str(getattr(config, "init_lora_weights", True)).lower()
    if start not in _STARTS:
        raise ValueError(
            f"{what} has init_lora_weights={start}, which changes the base's weights, and no "
            "adapter file holds these; use true, gaussian, orthogonal, eva, pissa or olora"
        )


def check_live(model: object) -> None:
    """Raise ValueError unless the adapters of a live model, if it has any, can be measured."""
    from analysis.models.compat import unwrapped

    configs = getattr(unwrapped(model), "peft_config", None)
    if isinstance(configs, Mapping):
        for name, config in configs.items():
            check_served(config, f"the adapter {name!r}")


def attach(base: PreTrainedModel, directory: Path, of: str) -> tuple[PeftModel, Differences]:
    """A base with the adapter of a directory on it, and how its file differs from what it needs.

    On the meta device the names and shapes are compared and nothing is read. `of` names the
    adapter in errors.

    Raises:
        ValueError: the adapter is of a kind that is not served, or PEFT can't put it on this base.
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = PeftConfig.from_pretrained(str(directory))
    check_served(config, of)
    config.inference_mode = True
    config.base_model_name_or_path = base.config.name_or_path
    stored = header(directory / ADAPTER_WEIGHTS)
    on_meta = base.device.type == "meta"
    if on_meta and kind_of(config) == "LORA":
        config.init_lora_weights = True  # nothing can be computed there, and no name depends on it
    grown = _grow(base, stored)
    try:
        model = get_peft_model(base, config, low_cpu_mem_usage=on_meta)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{of} is not an adapter of {base.config.name_or_path}: {reason}") from (
            error
        )
    found = differences(stored, _expected(model, grown), _expected(model, True))
    if not (on_meta or found.any):
        tensors = load_file(directory / ADAPTER_WEIGHTS)
        set_peft_model_state_dict(model, tensors)
        found = Differences(unread=_unread(tensors, _expected(model, True)))
    return model, found


class Differences:
    """How the tensors of an adapter's file differ from those that it needs; names, with reasons."""

    def __init__(
        self,
        missing: list[str] | None = None,
        unexpected: list[str] | None = None,
        shapes: list[str] | None = None,
        unread: list[str] | None = None,
    ) -> None:
        self.missing, self.unexpected = missing or [], unexpected or []
        self.shapes, self.unread = shapes or [], unread or []

    @property
    def any(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes or self.unread)


def differences(
    stored: Mapping[str, Stored],
    needed: Mapping[str, torch.Tensor],
    allowed: Mapping[str, torch.Tensor],
) -> Differences:
    """What is missing of the needed, what is not allowed, and what has another shape or type.

    An adapter on embeddings may hold the base's embeddings, or leave them out.
    """
    shapes = []
    for name in sorted(set(stored) & set(allowed)):
        there, wanted = stored[name], tuple(allowed[name].shape)
        if there.shape != wanted:
            shapes.append(f"{name} is {list(there.shape)} instead of {list(wanted)}")
        elif allowed[name].is_floating_point() and there.dtype not in FLOATS:
            shapes.append(f"{name} is {there.dtype}, not a float,")
    missing, unexpected = set(needed) - set(stored), set(stored) - set(allowed)
    return Differences(sorted(missing), sorted(unexpected), shapes)


def _expected(model: PeftModel, with_embeddings: bool) -> dict[str, torch.Tensor]:
    """What PEFT would save of a model, by the names of the file."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=with_embeddings)


def _unread(tensors: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]) -> list[str]:
    """The tensors of a file that a model does not hold although they were loaded into it."""
    return [name for name, x in tensors.items() if not same_values(x.to(now[name]), now[name])]


def rows_in_file(stored: Mapping[str, Stored]) -> int | None:
    """Rows of the embedding that an adapter's file holds whole; None if it holds none."""
    for name, tensor in stored.items():
        if re.search(r"(^|\.)(embed_tokens|wte)(\.token_adapter)?(\.base_layer)?\.weight$", name):
            return tensor.shape[0]
    return None


def _grow(base: PreTrainedModel, stored: Mapping[str, Stored]) -> bool:
    """Give a base the vocabulary of an adapter that was trained with another; whether it did."""
    rows, embedding = rows_in_file(stored), cast("Any", base.get_input_embeddings())
    if rows is None or rows == embedding.weight.shape[0]:
        return False
    base.resize_token_embeddings(rows, mean_resizing=False)
    return True

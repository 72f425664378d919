"""Quantised weights: of which kinds a model's heads are read, and which are refused by name.

Read are those whose modules are linear maps of what they are given, in the floats that they compute
in: 4 bits of bitsandbytes (QLoRA), and torchao's kinds that quantise weights only. Each matrix is
dequantised where it is read, by the module itself (`linear_map`). The others round what they are
given too, so that heads do not add up, or their kernels have no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_MEND = (
    "read are 4 bits of bitsandbytes and torchao's weight-only kinds; load it without "
    "quantization, or dequantise it (model.dequantize())"
)


def check_quantised(config: Any, what: str) -> None:
    """That a configuration names no quantisation, or one whose weights can be read.

    config: of a model, or its `quantization_config`; `what` names the model in the error.

    Raises:
        ValueError: it names another.
    """
    given = getattr(config, "quantization_config", config)
    settings = given.to_dict() if hasattr(given, "to_dict") else dict(given or {})
    if given is config and hasattr(config, "model_type"):  # a model's, which has none
        return
    if not settings or _is_read(settings, getattr(given, "quant_type", None)):
        return
    raise ValueError(f"{what} is quantised ({_name(settings)}), and heads can't be read: {_MEND}")


def check_dense(model: nn.Module, what: str) -> None:
    """That a model whose configuration names no quantisation has dense weights.

    Raises:
        ValueError: naming a weight that is packed in some other form.
    """
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        return
    if (found := packed_weight(model)) is not None:
        raise ValueError(
            f"{what} is quantised ({found}), and its configuration does not say how, so heads "
            f"can't be read: {_MEND}"
        )


def packed_weight(model: nn.Module) -> str | None:
    """A matrix whose numbers are not plain floats, by name and kind; None if there is none."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "__tensor_flatten__") and not hasattr(parameter, "device_mesh"):
            return f"{name} is a {type(parameter).__name__}"
        if parameter.ndim > 1 and not _is_wide(parameter.dtype):
            return f"{name} is {str(parameter.dtype).removeprefix('torch.')}"
    return None


def _is_wide(kind: torch.dtype) -> bool:
    return kind.is_floating_point and kind.itemsize > 1


def _is_read(settings: dict[str, Any], live: Any) -> bool:
    method = _method(settings)
    if method == "bitsandbytes":
        return bool(settings.get("load_in_4bit") or settings.get("_load_in_4bit"))
    return method == "torchao" and "weightonly" in _kind(settings, live)


def _method(settings: dict[str, Any]) -> str:
    """Who quantised; bitsandbytes' settings may leave it out."""
    method = settings.get("quant_method")
    if method is None and any("load_in_" in name for name in settings):
        return "bitsandbytes"
    return str(getattr(method, "value", method))


def _kind(settings: dict[str, Any], live: Any) -> str:
    """The kind of torchao's quantisation: the name of its class, or an older text, as one word."""
    found = settings.get("quant_type") if live is None or isinstance(live, str | dict) else live
    while isinstance(found, dict):
        found = found.get("_type") or next(iter(found.values()), "")
    name = found if isinstance(found, str) else type(found).__name__
    return name.replace("_", "").lower()


def _name(settings: dict[str, Any]) -> str:
    """A quantisation as people call it: its method, and its bits where they are said."""
    bits = settings.get("bits", settings.get("w_bit"))
    if any(settings.get(name) for name in ("load_in_8bit", "_load_in_8bit")):
        bits = 8
    return _method(settings) + (f", {bits} bits" if bits else "")

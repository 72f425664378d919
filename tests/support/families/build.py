"""build("qwen3_moe"): a random float64 model of two to six layers, four heads, two kv heads.

Everything is random: matrices, and norm weights, biases, sinks and scalars about what they start
as, so that a mistake in any of them shows. The same kind and seed give the same model.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from tests.support.families.kinds import WRAPPERS
from tests.support.families.own import OWN
from tests.support.families.sizes import OPTIONAL, SIZES

_TEXT_ONLY = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "head_dim"}


def build(kind: str, seed: int = 0, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """The model, in eval mode; `more` goes to its (text) configuration."""
    names = (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        if kind in WRAPPERS
        else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, names[kind])(tiny_config(kind, **more))
    return randomise(model.to(dtype).eval(), seed)


def tiny_config(kind: str, **more: Any) -> Any:
    """The configuration of a tiny model of a kind."""
    config_class, own = CONFIG_MAPPING[kind], OWN.get(kind, {})
    default = config_class()
    if kind not in WRAPPERS:
        config = config_class(**_small(default, own | more))
    else:
        parts = {}
        for name in sorted(default.sub_configs):
            if (part := getattr(default, name, None)) is not None:
                small = _small(part, OWN.get(part.model_type, {}))
                skipped = set() if name == "text_config" else _TEXT_ONLY
                parts[name] = {key: size for key, size in small.items() if key not in skipped}
        parts["text_config"] |= own.get("text_config", {}) | more
        config = config_class(**own | parts)
    for part in (config, config.get_text_config()):
        part._experts_implementation = "eager"  # the grouped one knows no float64
    return config


def _small(default: Any, own: dict[str, Any]) -> dict[str, Any]:
    """The common sizes that a configuration takes, and its own."""
    values, sizes = default.to_dict(), {}
    for name, size in SIZES.items():
        real = default.attribute_map.get(name, name)
        old = values.get(real)
        number = isinstance(old, int | float) and not isinstance(old, bool)
        if real in values and (number or (old is None and (name in OPTIONAL or real != name))):
            sizes[real] = size
    return sizes | own


@torch.no_grad()
def randomise(model: Any, seed: int) -> Any:
    """Random matrices; vectors and scalars about what they are."""
    generator = torch.Generator().manual_seed(seed)
    trained = dict(model.named_parameters())
    scalars = {name: b for name, b in model.named_buffers() if name in model.state_dict()}
    for name, tensor in (trained | scalars).items():
        if not tensor.is_floating_point() or tensor.ndim >= 2 and name not in trained:
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        new = noise * 0.3 if tensor.ndim >= 2 else tensor.double() + noise * 0.2
        tensor.copy_(new)
    return model

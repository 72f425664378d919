"""What a configuration says of a model: its class, its vocabulary, how many positions it has.

A multimodal model (Gemma 3 from 4B up, Qwen-VL, Mistral 3, ...) is a wrapper around a language
model, and what its configuration says of that one stands in a part of it, `get_text_config()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def vocabulary(config: PreTrainedConfig) -> int:
    """Tokens that the language model of a configuration has embeddings for."""
    return int(config.get_text_config().vocab_size)


def context(config: PreTrainedConfig) -> int | None:
    """The tokens that a model was made for, where its configuration says it."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def room(config: PreTrainedConfig, tokens: int) -> int | None:
    """`position_limit` of a configuration, for texts of up to `tokens`.

    None where they are within the context: no model is made to tell it.
    """
    limit = context(config)
    return None if limit is None or tokens <= limit else position_limit(empty_model(config))


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers by which a model of a configuration is made and read.

    It is AutoModelForCausalLM, or AutoModelForMultimodalLM for a wrapper that the other does not
    know, or whose files say (`architectures`) that they hold the whole wrapper: of some wrappers
    the other reads the language model only, under other names.

    Raises:
        ValueError: it is no language model that transformers knows.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForMultimodalLM,
    )

    choices: dict[Any, Any] = {
        AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoModelForMultimodalLM: MODEL_FOR_MULTIMODAL_LM_MAPPING,
    }
    known = [auto for auto, classes in choices.items() if type(config) in classes]
    if not known:
        raise ValueError(
            f"can't load {config.name_or_path or 'the model'}: {config.model_type!r} is no type of "
            "language model that transformers knows"
        )
    named = config.architectures or []
    fits = [auto for auto in known if choices[auto][type(config)].__name__ in named]
    return (fits or known)[0]


def empty_model(config: PreTrainedConfig) -> Any:
    """A model of a configuration on the meta device, where weights have shapes and no values.

    Random states stay as they are.

    Raises:
        ValueError: as `auto_class`.
    """
    import torch

    auto = auto_class(config)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return auto.from_config(config, trust_remote_code=False)


def position_limit(model: PreTrainedModel) -> int | None:
    """The tokens that a model has positions for; None where it can count on.

    A limit is there where positions are rows of a table: learned ones (GPT-2, OPT), or ones that
    were computed once (GPT-J). The table is an embedding, or a buffer, of as many rows as the
    configuration has positions. A model on the meta device has it as well.
    """
    from torch import nn

    limit = context(model.config)
    tokens = list(model.get_input_embeddings().modules())
    inside: Any = model.get_decoder()  # without the vision tower, which has tables of its own
    if not any(part is tokens[0] for part in inside.modules()):
        inside = model
    rows = {
        part.num_embeddings - getattr(part, "offset", 0)
        for part in inside.modules()
        if isinstance(part, nn.Embedding) and all(part is not token for token in tokens)
    }
    rows |= {len(buffer) for buffer in inside.buffers() if buffer.ndim == 2}
    return limit if limit in rows else None

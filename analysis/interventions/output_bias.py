"""A model that computes the same, with biases at the output projections of its heads.

A mean that is baked is such a bias. Where an architecture has none, its configuration may have a
switch for it (`attention_bias` of Llama, Gemma, Qwen3, Granite, ...), or the model may be a Llama
by another name (Qwen2, Mistral without a window). What is tried is proved: it holds every tensor of
the model and nothing but biases beside them, and computes the same logits. Windows and chunks of
attention, which a few tokens don't show, must not be there where a model becomes a Llama.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from analysis.models.anatomy import Anatomy, Heads
from analysis.models.compat import model_of
from analysis.models.linear import wide

_PROBE = 16  # tokens on which two models are compared
_SAME = 1e-5  # of the largest logit, in float32
# what a Llama configuration shares with those whose layers compute the same
_SHARED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "hidden_act", "max_position_embeddings"),
    *("rms_norm_eps", "tie_word_embeddings", "rope_parameters", "initializer_range"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "attention_dropout"),
)


@torch.no_grad()
def probe(model: Any) -> torch.Tensor:
    """A model's logits on a few tokens: [1, T, V]."""
    embedding = model.get_input_embeddings().weight
    ids = torch.arange(min(_PROBE, len(embedding)), device=embedding.device)[None]
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return wide(logits) if logits.dtype == torch.float64 else logits


def difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The largest difference of logits, over the largest logit."""
    return float((wide(found) - wide(expected)).abs().max() / wide(expected).abs().max())


def tolerance(logits: torch.Tensor) -> float:
    """How far logits of this dtype may be off by rounding."""
    return 1e-3 if wide(logits).dtype == logits.dtype else 0.1


def with_output_bias(model: Any, parts: Anatomy, of: Sequence[Heads] = ()) -> Any:
    """The same function with biases, 0 where there was none, wherever its configuration has them.

    of: the heads whose output projections must have one. A model in which all have is returned as
    it is.

    Raises:
        ValueError: no architecture was found that holds the model and such biases.
    """
    names = {module: name for name, module in model.named_modules()}
    bare = {names[h.o_proj] for _, h in parts.heads if _bias(model, names[h.o_proj]) is None}
    if not bare:
        return model
    needed = {names[heads.o_proj] for heads in of} & bare
    found = [
        (kind, config, _given(kind, config, model, bare)) for kind, config in _candidates(model)
    ]
    fit = [entry for entry in found if entry[2] and needed <= entry[2]]
    if fit:
        kind, config, _ = max(fit, key=lambda entry: len(entry[2]))
        new = _rebuilt(model, kind, config)
        if _computes_the_same(model, new):
            return new
    kind = str(model.config.model_type)
    slides = " with a sliding window" if _sees_less(model.config, "sliding") else ""
    name = sorted(needed or bare)[0].rpartition(".")[2]
    raise ValueError(
        f"a mean can't be baked into {kind}{slides}: its {name} has no bias; bake zero or scale, "
        "or intervene on the live model"
    )


def _bias(model: Any, name: str) -> torch.Tensor | None:
    bias: torch.Tensor | None = getattr(model.get_submodule(name), "bias", None)
    return bias


def _candidates(model: Any) -> Iterator[tuple[Any, Any]]:
    """Classes and configurations that may be the same model with biases: switches, then Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    text = model.config.get_text_config()
    for name, value in text.to_dict().items():
        if value is False and "bias" in name:
            config = copy.deepcopy(model.config)
            setattr(config.get_text_config(), name, True)
            yield type(model), config
    if text is model.config and not _sees_less(text):
        shared = {name: getattr(model.config, name, None) for name in _SHARED}
        given = {name: value for name, value in shared.items() if value is not None}
        yield LlamaForCausalLM, LlamaConfig(**given, attention_bias=True, mlp_bias=False)


def _sees_less(config: Any, how: str = "") -> bool:
    """Whether some layers see a part of the text only, or (without `how`) are no attention."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is not None:
        return any(how in kind and kind != "full_attention" for kind in kinds)
    found = (getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return any(size is not None for size in found)


def _given(kind: Any, config: Any, model: Any, bare: set[str]) -> set[str]:
    """Which of the output projections get a bias; none if it can't hold the model's tensors."""
    try:
        with torch.device("meta"):
            empty = model_of(kind, config, model.dtype)
    except (TypeError, ValueError, AttributeError, KeyError, AssertionError, RuntimeError):
        return set()  # it is no configuration of such a model
    here, there = model.state_dict(), empty.state_dict()
    same = all(name in there and there[name].shape == tensor.shape for name, tensor in here.items())
    if not same or any(not name.endswith("bias") for name in set(there) - set(here)):
        return set()
    return {name for name in bare if f"{name}.bias" in there}


def _rebuilt(model: Any, kind: Any, config: Any) -> Any:
    """A model of another class or configuration with the tensors of one; new biases are 0."""
    new = model_of(kind, config, model.dtype)
    state = model.state_dict()
    for name, parameter in new.state_dict().items():
        if name not in state:
            state[name] = torch.zeros_like(parameter)
    new.load_state_dict(state, strict=True)
    new.tie_weights()
    new.generation_config = model.generation_config
    return new.to(model.device).eval()


def _computes_the_same(model: Any, new: Any) -> bool:
    """Whether two models give the same logits in float32."""
    with _in_float32(model):
        expected = probe(model)
    with _in_float32(new):
        return difference(expected, probe(new)) <= _SAME


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Inside, narrower weights are float32; outside, they are what they were, to the bit."""
    narrow = [
        (tensor, tensor.dtype)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point() and tensor.element_size() < 4
    ]
    try:
        for tensor, _ in narrow:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in narrow:
            tensor.data = tensor.data.to(dtype)

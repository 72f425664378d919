"""Where a Hugging Face causal language model keeps its heads, MLPs and norms.

Supported are the pre-norm decoders whose blocks are `x += attention(norm(x)); x += mlp(norm(x))`
with RMSNorm and separate q/k/v/o projections. A PEFT model is read through its base model, with its
adapters in place: they are part of the projections that the hooks sit on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from analysis.graph import Graph

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Block:
    """The modules of one decoder layer that attribution reads."""

    attention_norm: nn.Module
    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module


@dataclass(frozen=True)
class Anatomy:
    """The modules of a model that attribution reads, and its graph."""

    decoder: nn.Module  # ids -> hidden states after the final norm
    embedding: nn.Module
    blocks: list[Block]
    final_norm: nn.Module
    lm_head: nn.Module
    head_dim: int
    graph: Graph


def base_model(model: nn.Module) -> Any:
    """The Hugging Face causal language model inside a PEFT model; any other model as it is."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def check_supported(model_type: str) -> None:
    """Raise ValueError, with the list of supported architectures, for any other."""
    if model_type not in SUPPORTED:
        raise ValueError(
            f"head tracking does not know the architecture {model_type!r}; "
            f"supported: {', '.join(SUPPORTED)}"
        )


def _find(parent: nn.Module, name: str, where: str) -> nn.Module:
    module = getattr(parent, name, None)
    if not isinstance(module, nn.Module):
        raise ValueError(f"{where} has no module {name!r}; supported: {', '.join(SUPPORTED)}")
    return module


def anatomy(model: nn.Module) -> Anatomy:
    """Find the parts of a model.

    Raises:
        ValueError: the architecture is not supported or a module is missing; both are named.
    """
    causal_lm = base_model(model)
    config, kind = causal_lm.config, type(causal_lm).__name__
    check_supported(str(config.model_type))
    decoder: Any = _find(causal_lm, "model", kind)
    blocks = []
    for index, layer in enumerate(decoder.layers):
        where = f"layer {index} of {kind}"
        attention = _find(layer, "self_attn", where)
        blocks.append(
            Block(
                attention_norm=_find(layer, "input_layernorm", where),
                q_proj=_find(attention, "q_proj", where),
                k_proj=_find(attention, "k_proj", where),
                v_proj=_find(attention, "v_proj", where),
                o_proj=_find(attention, "o_proj", where),
                mlp_norm=_find(layer, "post_attention_layernorm", where),
                mlp=_find(layer, "mlp", where),
            )
        )
    heads = int(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Anatomy(
        decoder=decoder,
        embedding=_find(decoder, "embed_tokens", type(decoder).__name__),
        blocks=blocks,
        final_norm=_find(decoder, "norm", type(decoder).__name__),
        lm_head=_find(causal_lm, "lm_head", kind),
        head_dim=int(head_dim),
        graph=Graph(len(blocks), heads, int(config.num_key_value_heads)),
    )


@torch.no_grad()
def linear_map(module: nn.Module) -> torch.Tensor:
    """The matrix [out, in] that a linear module applies, its adapters included, without its bias.

    A plain `nn.Linear` gives its weight; anything else (a LoRA layer, say) is applied to the
    identity, which is exact for a linear module in eval mode.
    """
    if type(module) is nn.Linear:
        return module.weight
    parameter = next(module.parameters())
    width = int(module.in_features)  # type: ignore[arg-type]
    identity = torch.eye(width, dtype=parameter.dtype, device=parameter.device)
    return (module(identity) - module(torch.zeros_like(identity[:1]))).T

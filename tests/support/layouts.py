"""The anatomy of a model by the names of the modules of known families, as detection is to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from analysis.models.anatomy import (
    Anatomy,
    Block,
    Heads,
    Node,
    Norm,
    Projection,
    Reading,
    Tap,
    Unsupported,
    base_model,
    in_force,
)
from analysis.models.graph import Graph


@dataclass(frozen=True)
class Layout:
    """Names of the modules of one family of architectures."""

    decoder: str = "model"
    embedding: str = "embed_tokens"
    layers: str = "layers"
    final_norm: str = "norm"
    attention_norm: str = "input_layernorm"
    attention: str = "self_attn"
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")  # or one module that holds all three
    o_proj: str = "o_proj"
    post_attention_norm: str | None = None
    mlp_norm: str = "post_attention_layernorm"
    mlp: str = "mlp"
    post_mlp_norm: str | None = None
    gain_offset: float = 0.0  # what the norms add to their weight


_LLAMA = Layout()
_GEMMA = Layout(
    post_attention_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
    gain_offset=1.0,
)
_GPT2 = Layout(
    decoder="transformer",
    embedding="wte",
    layers="h",
    final_norm="ln_f",
    attention_norm="ln_1",
    attention="attn",
    qkv=("c_attn",),
    o_proj="c_proj",
    mlp_norm="ln_2",
)
LAYOUTS = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def _find(parent: nn.Module, name: str, where: str) -> Any:
    module = getattr(parent, name, None)
    if not isinstance(module, nn.Module):
        raise Unsupported(f"{where} has no module {name!r}")
    return in_force(module)


def by_names(model: nn.Module, kv: str = "grouped") -> Anatomy:
    """The parts of a model of one of these families."""
    causal_lm = base_model(model)
    config, kind = causal_lm.config, type(causal_lm).__name__
    layout = LAYOUTS[config.model_type]
    decoder = _find(causal_lm, layout.decoder, kind)
    layers = _find(decoder, layout.layers, type(decoder).__name__)
    heads = int(config.num_attention_heads)
    graph = Graph(len(layers), heads, int(getattr(config, "num_key_value_heads", heads)), kv)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return Anatomy(
        causal_lm=causal_lm,
        decoder=decoder,
        embedding=_find(decoder, layout.embedding, type(decoder).__name__),
        layers=layers,
        blocks=tuple(
            _block(index, layer, layout, graph, head_dim, f"layer {index} of {kind}")
            for index, layer in enumerate(layers)
        ),
        graph=graph,
        width=int(config.hidden_size),
        final_norm=_norm(
            _find(decoder, layout.final_norm, type(decoder).__name__), layout.gain_offset
        ),
        max_tokens=config.n_positions if layout is _GPT2 else None,
    )


def _norm(module: nn.Module, offset: float) -> Norm:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))
    return Norm(module, float(eps), offset, isinstance(module, nn.LayerNorm))


def _block(
    index: int, layer: nn.Module, layout: Layout, graph: Graph, head_dim: int, where: str
) -> Block:
    attention = _find(layer, layout.attention, where)

    def norm(name: str) -> Norm:
        return _norm(_find(layer, name, where), layout.gain_offset)

    modules = [_find(attention, name, where) for name in layout.qkv]
    counts = (graph.n_heads, graph.n_kv_heads, graph.n_kv_heads)
    copies = graph.kv_width // graph.n_kv_heads
    fused, sides, column = len(modules) == 1, [], 0
    for side, letter in enumerate("qkv"):
        rows = torch.arange(counts[side] * head_dim).view(counts[side], head_dim)
        first = sum(counts[:side]) * head_dim if fused else 0
        projection = Projection(
            modules[0 if fused else side],
            rows + first,
            column,
            letter,
            repeats=copies if side else 1,
        )
        sides.append(projection)
        column += projection.width
    post_attention, post_mlp = layout.post_attention_norm, layout.post_mlp_norm
    attention_norm, mlp_norm = norm(layout.attention_norm), norm(layout.mlp_norm)
    mlp = _find(layer, post_mlp or layout.mlp, where)
    return Block(
        index,
        layer,
        (Reading(attention_norm, attention_norm.module, tuple(sides)),),
        (
            Heads(
                attention,
                _find(attention, layout.o_proj, where),
                graph.n_heads,
                after=norm(post_attention) if post_attention else None,
            ),
        ),
        (Node("m", (Tap(mlp_norm.module, 1),), ((mlp, 1.0),), 2),),
    )

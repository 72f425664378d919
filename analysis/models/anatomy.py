"""Where a Hugging Face causal language model keeps its heads, MLPs and norms.

Supported are the decoders whose blocks are `x += attention(norm(x)); x += mlp(norm(x))`, also with
a norm after each branch (Gemma 2 and 3). What a node writes is what enters the residual stream:

    head   z_h r W_O[h] diag(gain)     z the input of `o_proj`; r = 1/rms and gain those of the norm
                                       after the branch, 1 where there is none
    MLP    the output of the branch, after that norm

A PEFT model is read through its base model, with its adapters in place: they are part of the
projections that the hooks sit on. Where an adapter has a whole copy of a module, such as a norm,
the copy is read. Adapters that work otherwise are refused (analysis/models/adapters.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from analysis.models.adapters import check_live
from analysis.models.compat import Conv1D
from analysis.models.graph import Graph

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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
SUPPORTED = tuple(LAYOUTS)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """float32, or float64 where the tensor is float64 already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@dataclass(frozen=True)
class Norm:
    """An RMSNorm or LayerNorm: gain * centred(x) * r + bias."""

    module: Any
    gain_offset: float

    @property
    def centred(self) -> bool:
        """True for a LayerNorm, which subtracts the mean first."""
        return isinstance(self.module, nn.LayerNorm)

    @property
    def gain(self) -> torch.Tensor:
        """[d]"""
        return wide(self.module.weight.detach()) + self.gain_offset

    @property
    def bias(self) -> torch.Tensor | None:
        """[d], or None."""
        bias = getattr(self.module, "bias", None)
        return None if bias is None else wide(bias.detach())

    def centre(self, x: torch.Tensor) -> torch.Tensor:
        """x less its mean over the last axis, for a LayerNorm; else x."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def rstd(self, x: torch.Tensor) -> torch.Tensor:
        """r = 1 / sqrt(mean(x^2) + eps) of the centred x: [..., d] -> [..., 1]."""
        module = self.module
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        x = self.centre(wide(x))
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
        return (square + eps).rsqrt()


@dataclass(frozen=True)
class Projection:
    """The rows of a linear module that belong to one side (q, k or v) of one layer's attention.

    first: the first of those rows. column: this side's first destination among the layer's.
    """

    module: nn.Module
    norm: Norm
    first: int
    column: int
    n_heads: int
    head_dim: int
    repeats: int = 1  # copies of each head: query heads that share it, in the ungrouped graph

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.n_heads * self.head_dim)

    @property
    def width(self) -> int:
        """Destinations of this side."""
        return self.n_heads * self.repeats

    @property
    def columns(self) -> slice:
        """This side's destinations among the layer's."""
        return slice(self.column, self.column + self.width)

    @property
    def features(self) -> slice:
        """This side's part of the module's output, once repeated."""
        return slice(self.first, self.first + self.width * self.head_dim)

    def repeat(self, y: torch.Tensor) -> torch.Tensor:
        """One copy per destination: [..., n_heads * e] -> [..., width * e]."""
        if self.repeats == 1:
            return y
        shape = y.shape[:-1]
        heads = y.view(*shape, self.n_heads, 1, self.head_dim)
        return heads.expand(*shape, self.n_heads, self.repeats, self.head_dim).flatten(-3)

    @cached_property
    def _matrix(self) -> torch.Tensor:
        return linear_map(self.module)[self.rows]

    @property
    def weight(self) -> torch.Tensor:
        """[width, e, d]"""
        W = wide(self._matrix).view(self.n_heads, self.head_dim, -1)
        return W if self.repeats == 1 else W.repeat_interleave(self.repeats, 0)

    @cached_property
    def offset(self) -> torch.Tensor | None:
        """Output where the normalised input is 0 (the biases of module and norm): [width * e]."""
        bias, beta = linear_bias(self.module), self.norm.bias
        out = None if bias is None else wide(bias)[self.rows]
        if beta is not None:
            shift = wide(self._matrix) @ beta
            out = shift if out is None else out + shift
        return None if out is None else self.repeat(out)


@dataclass(frozen=True)
class Block:
    """The modules of one decoder layer that attribution reads."""

    attention: Any
    attention_norm: Norm
    sides: tuple[Projection, Projection, Projection]  # q, k, v
    o_proj: nn.Module
    post_attention_norm: Norm | None
    mlp_norm: Norm
    mlp: nn.Module
    post_mlp_norm: Norm | None
    n_heads: int

    @property
    def norms(self) -> tuple[Norm, Norm]:
        """The norms that read the residual stream."""
        return self.attention_norm, self.mlp_norm

    @property
    def readers(self) -> dict[nn.Module, list[Projection]]:
        """The modules that compute q, k and v, each with its sides."""
        found: dict[nn.Module, list[Projection]] = {}
        for side in self.sides:
            found.setdefault(side.module, []).append(side)
        return found

    @property
    def attention_branch(self) -> nn.Module:
        """The module whose output enters the residual stream from the attention."""
        return self.post_attention_norm.module if self.post_attention_norm else self.o_proj

    @property
    def mlp_branch(self) -> nn.Module:
        """The module whose output enters the residual stream from the MLP."""
        return self.post_mlp_norm.module if self.post_mlp_norm else self.mlp

    @cached_property
    def _o_matrix(self) -> torch.Tensor:
        return linear_map(self.o_proj)

    @property
    def W_O(self) -> torch.Tensor:
        """What each head's z r is multiplied with: [H, e, d]."""
        W = wide(self._o_matrix)
        if self.post_attention_norm:
            W = W * self.post_attention_norm.gain[:, None]
        return W.view(W.shape[0], self.n_heads, -1).permute(1, 2, 0)


@dataclass(frozen=True)
class Anatomy:
    """The modules of a model that attribution reads, and its graph."""

    causal_lm: Any
    decoder: nn.Module  # ids -> hidden states after the final norm
    embedding: Any
    layers: Any
    blocks: list[Block]
    final_norm: Norm
    lm_head: nn.Module
    graph: Graph
    max_tokens: int | None  # where positions are learned
    softcap: float | None = field(default=None)

    @property
    def vocabulary(self) -> int:
        """Tokens that the embedding has, those that an adapter has added included."""
        return int(self.embedding.weight.shape[0])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states after the final norm: [..., d] -> [..., V]."""
        logits = wide(self.lm_head(hidden))
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()


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


def graph_of(config: PreTrainedConfig, kv: str = "grouped") -> Graph:
    """The graph of a model's configuration, with no weight loaded.

    Raises:
        ValueError: the architecture is not supported, or `kv` is unknown.
    """
    check_supported(str(config.model_type))
    heads = int(config.num_attention_heads)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    return Graph(int(config.num_hidden_layers), heads, shared, kv)


def _find(parent: nn.Module, name: str, where: str) -> Any:
    module = getattr(parent, name, None)
    if not isinstance(module, nn.Module):
        raise ValueError(f"{where} has no module {name!r}; supported: {', '.join(SUPPORTED)}")
    return in_force(module)


def in_force(module: Any) -> Any:
    """The module that computes: a PEFT adapter's whole copy of one, if there is one and it is used.

    Such copies are `modules_to_save` of any adapter and the norms of LN tuning.
    """
    copies = getattr(module, "modules_to_save", getattr(module, "ln_tuning_layers", None))
    if not isinstance(copies, nn.ModuleDict):
        return module
    used = (
        []
        if module.disable_adapters or getattr(module, "merged", False)
        else (module.active_adapters)
    )
    if not used:
        return getattr(module, "original_module", getattr(module, "base_layer", None))
    return copies[used[0]]


def anatomy(model: nn.Module, kv: str = "grouped") -> Anatomy:
    """Find the parts of a model.

    Raises:
        ValueError: the architecture is not supported, a module is missing (named), the weights are
            quantised, an adapter is of a kind that is not served, or `kv` is unknown.
    """
    check_live(model)
    causal_lm = base_model(model)
    config, kind = causal_lm.config, type(causal_lm).__name__
    check_supported(str(config.model_type))
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"{kind} is quantised, and attribution reads dense weights; load it without "
            "quantization, or dequantise it (model.dequantize())"
        )
    layout = LAYOUTS[config.model_type]
    decoder = _find(causal_lm, layout.decoder, kind)
    layers = _find(decoder, layout.layers, type(decoder).__name__)
    heads = int(config.num_attention_heads)
    graph = Graph(len(layers), heads, int(getattr(config, "num_key_value_heads", heads)), kv)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    blocks = [
        _block(layer, layout, graph, head_dim, f"layer {index} of {kind}")
        for index, layer in enumerate(layers)
    ]
    final_norm = _find(decoder, layout.final_norm, type(decoder).__name__)
    return Anatomy(
        causal_lm=causal_lm,
        decoder=decoder,
        embedding=_find(decoder, layout.embedding, type(decoder).__name__),
        layers=layers,
        blocks=blocks,
        final_norm=Norm(final_norm, layout.gain_offset),
        lm_head=_find(causal_lm, "lm_head", kind),
        graph=graph,
        max_tokens=config.n_positions if layout is _GPT2 else None,
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _block(layer: nn.Module, layout: Layout, graph: Graph, head_dim: int, where: str) -> Block:
    attention = _find(layer, layout.attention, where)

    def norm(name: str) -> Norm:
        return Norm(_find(layer, name, where), layout.gain_offset)

    attention_norm = norm(layout.attention_norm)
    modules = [_find(attention, name, where) for name in layout.qkv]
    counts = (graph.n_heads, graph.n_kv_heads, graph.n_kv_heads)
    repeats = (1, graph.kv_width // graph.n_kv_heads, graph.kv_width // graph.n_kv_heads)
    fused = len(modules) == 1
    sides = tuple(
        Projection(
            module=modules[0 if fused else side],
            norm=attention_norm,
            first=sum(counts[:side]) * head_dim if fused else 0,
            column=(0, graph.n_heads, graph.n_heads + graph.kv_width)[side],
            n_heads=counts[side],
            head_dim=head_dim,
            repeats=repeats[side],
        )
        for side in range(3)
    )
    post_attention, post_mlp = layout.post_attention_norm, layout.post_mlp_norm
    return Block(
        attention=attention,
        attention_norm=attention_norm,
        sides=sides,  # type: ignore[arg-type]
        o_proj=_find(attention, layout.o_proj, where),
        post_attention_norm=norm(post_attention) if post_attention else None,
        mlp_norm=norm(layout.mlp_norm),
        mlp=_find(layer, layout.mlp, where),
        post_mlp_norm=norm(post_mlp) if post_mlp else None,
        n_heads=graph.n_heads,
    )


@torch.no_grad()
def linear_map(module: Any) -> torch.Tensor:
    """The matrix [out, in] that a linear module applies, its adapters included, without its bias.

    A plain `nn.Linear` or `Conv1D` gives its weight; anything else (a LoRA layer, say) is applied
    to the identity, which is exact for a linear module in eval mode.
    """
    if type(module) is nn.Linear:
        return module.weight
    if type(module) is Conv1D:
        return module.weight.T
    parameter = next(module.parameters())
    identity = torch.eye(module.in_features, dtype=parameter.dtype, device=parameter.device)
    # forward, not __call__: the hooks of a running attribution must not see this
    return (module.forward(identity) - module.forward(torch.zeros_like(identity[:1]))).T


@torch.no_grad()
def linear_bias(module: Any) -> torch.Tensor | None:
    """What a linear module returns for 0, [out], or None if it has no bias."""
    if type(module) in (nn.Linear, Conv1D):
        return None if module.bias is None else module.bias.detach()
    parameter = next(module.parameters())
    zero = torch.zeros(1, module.in_features, dtype=parameter.dtype, device=parameter.device)
    return module.forward(zero)[0]

"""An independent forward pass in float64, in which the inputs of single destinations are perturbed.

Everything that the code under test does with hooks is written out here: projections are applied per
head and from their own perturbed input, norms are float64 throughout (those of Hugging Face are
float32, too coarse to difference), attention is a matrix of weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import layer_norm, linear

from analysis.prompts.pairs import Batch


def normed(module: Any, x: torch.Tensor) -> torch.Tensor:
    """LayerNorm, RMSNorm, or Gemma's RMSNorm, whose gain is 1 + weight."""
    if isinstance(module, torch.nn.LayerNorm):
        return layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)
    gemma = type(module).__name__.startswith("Gemma")
    eps = module.eps if gemma else module.variance_epsilon
    scaled = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scaled * (module.weight + 1 if gemma else module.weight)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Oracle:
    """A model, seen as plain matrices."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self.gpt2 = self.config.model_type == "gpt2"
        self.gemma = self.config.model_type.startswith("gemma")
        self.decoder = model.transformer if self.gpt2 else model.model
        self.layers = self.decoder.h if self.gpt2 else self.decoder.layers
        self.H = self.config.num_attention_heads
        self.K = self.H if self.gpt2 else self.config.num_key_value_heads
        self.e = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.H

    def norm(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        return normed(module, x)

    def held(self, scale: torch.Tensor) -> torch.Tensor:
        """The scale of a norm."""
        return scale

    def softmax(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(-1)

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """One of two factors."""
        return x

    def mlp(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        if self.gpt2:
            return layer.mlp(x)
        gate = layer.mlp.act_fn(layer.mlp.gate_proj(x))
        return layer.mlp.down_proj(self.factor(gate) * self.factor(layer.mlp.up_proj(x)))

    def modules(self, layer: Any) -> dict[str, Any]:
        if self.gpt2:
            names = {"norm": "ln_1", "mlp_norm": "ln_2"}
        elif self.gemma:
            names = {"norm": "input_layernorm", "mlp_norm": "pre_feedforward_layernorm"}
            names |= {"post": "post_attention_layernorm", "mlp_post": "post_feedforward_layernorm"}
        else:
            names = {"norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        return {key: getattr(layer, name) for key, name in names.items()}

    def projections(self, layer: Any) -> tuple[dict[str, tuple[Any, Any]], torch.Tensor, Any]:
        """(weight [heads, e, d], bias) of q, k, v; W_O [d, H, e]; bias of the output."""
        if self.gpt2:
            parts = layer.attn.c_attn.weight.T.view(3, self.H, self.e, -1)
            biases = layer.attn.c_attn.bias.view(3, self.H, self.e)
            qkv = {side: (parts[i], biases[i]) for i, side in enumerate("qkv")}
            out = layer.attn.c_proj
            return qkv, out.weight.T.view(-1, self.H, self.e), out.bias
        attention = layer.self_attn
        qkv = {}
        for side in "qkv":
            module = getattr(attention, f"{side}_proj")
            bias = None if module.bias is None else module.bias.view(-1, self.e)
            qkv[side] = module.weight.view(-1, self.e, module.weight.shape[1]), bias
        return qkv, attention.o_proj.weight.view(-1, self.H, self.e), attention.o_proj.bias

    def allowed(self, index: int, batch: Batch) -> torch.Tensor:
        T = batch.mask.shape[1]
        allowed = torch.ones(T, T, dtype=torch.bool).tril()
        window = getattr(self.config, "sliding_window", None)
        types = getattr(self.config, "layer_types", None)
        if window and (types is None or types[index] == "sliding_attention"):
            allowed &= ~torch.ones(T, T, dtype=torch.bool).tril(-window)
        return allowed[None] & batch.mask[:, None, :].bool()

    def turns(self, index: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kinds = (self.config.layer_types[index],) if self.config.model_type == "gemma3_text" else ()
        return self.decoder.rotary_emb(x, torch.arange(x.shape[1])[None], *kinds)

    def forward(
        self, ids: torch.Tensor, batch: Batch, perturb: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits at the pairs' positions, and what every source writes.

        `perturb` maps a destination's name (grouped or ungrouped) to what is added to its input
        before the norm, and `input` to what is added to the embedding: [B, T, d].
        """
        if self.gpt2:
            x = self.decoder.wte(ids) + self.decoder.wpe(torch.arange(ids.shape[1]))
        else:
            x = self.decoder.embed_tokens(ids)
        x = x + perturb.get("input", 0)
        outputs = {"input": x}
        for index, layer in enumerate(self.layers):
            at = self.modules(layer)
            heads = self.attention(index, layer, at["norm"], x, batch, perturb)
            _, W_O, bias = self.projections(layer)
            written = [z @ W_O[:, h].T for h, z in enumerate(heads)]
            if self.gemma:
                total = sum(written)
                rms = self.held((total.pow(2).mean(-1, keepdim=True) + at["post"].eps).sqrt())
                written = [part / rms * (at["post"].weight + 1) for part in written]
            for h, part in enumerate(written):
                outputs[f"a{index}.h{h}"] = part
            x = x + sum(written)
            x = x if bias is None else x + bias
            mlp = self.mlp(layer, self.norm(at["mlp_norm"], x + perturb.get(f"m{index}", 0)))
            outputs[f"m{index}"] = self.norm(at["mlp_post"], mlp) if self.gemma else mlp
            x = x + outputs[f"m{index}"]
        norm = self.decoder.ln_f if self.gpt2 else self.decoder.norm
        final = self.norm(norm, x + perturb.get("logits", 0))
        logits = self.model.lm_head(final[batch.rows, batch.positions])
        cap = getattr(self.config, "final_logit_softcapping", None)
        return (logits if cap is None else cap * (logits / cap).tanh()), outputs

    def attention(
        self,
        index: int,
        layer: Any,
        norm: Any,
        x: torch.Tensor,
        batch: Batch,
        perturb: dict[str, torch.Tensor],
    ) -> list[torch.Tensor]:
        """The input of W_O of every head: [B, T, e] each."""
        qkv, _, _ = self.projections(layer)
        group = self.H // self.K
        allowed = self.allowed(index, batch)
        heads = []
        for h in range(self.H):
            parts = {}
            for side, row, shared in (
                ("q", h, f"a{index}.h{h}<q>"),
                ("k", h // group, f"a{index}.kv{h // group}<k>"),
                ("v", h // group, f"a{index}.kv{h // group}<v>"),
            ):
                shift = perturb.get(shared, 0)
                if side != "q":
                    shift = shift + perturb.get(f"a{index}.h{h}<{side}>", 0)
                weight, bias = qkv[side]
                bias = None if bias is None else bias[row]
                parts[side] = linear(self.norm(norm, x + shift), weight[row], bias)
            q, k = parts["q"], parts["k"]
            scale = self.e**-0.5
            if not self.gpt2:
                if hasattr(layer.self_attn, "q_norm"):
                    norms = layer.self_attn.q_norm, layer.self_attn.k_norm
                    q, k = self.norm(norms[0], q), self.norm(norms[1], k)
                cos, sin = self.turns(index, x)
                q, k = rotated(q, cos, sin), rotated(k, cos, sin)
                scale = layer.self_attn.scaling
            weights = self.factor(q) @ self.factor(k).mT * scale
            cap = getattr(self.config, "attn_logit_softcapping", None)
            if cap is not None:
                weights = cap * (weights / cap).tanh()
            weights = self.softmax(weights.masked_fill(~allowed, -torch.inf))
            heads.append(self.factor(weights) @ self.factor(parts["v"]))
        return heads

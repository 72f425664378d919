"""Tiny random mixtures of experts, whose routing changes along a path between two prompts."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.families.build import build

# what is special about it: the family, and what else its configuration has
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("qwen3_moe", {}),
    "a dense layer": ("qwen3_moe", {"mlp_only_layers": [0]}),
    "one expert a token": ("mixtral", {"num_experts_per_tok": 1}),
    "shared experts": ("qwen2_moe", {}),
    "groups": ("deepseek_v3", {"n_routed_experts": 8, "n_group": 2, "topk_group": 1}),
    "a band of experts": ("phimoe", {}),
}


@torch.no_grad()
def tiny_mixture(kind: str, seed: int = 0) -> Any:
    """A random model of one of KINDS in float64, smoother than those of `build`."""
    family, more = KINDS[kind]
    model = build(family, seed, **more)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(0.5)
    return model

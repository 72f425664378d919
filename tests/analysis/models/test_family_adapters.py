"""Adapters on the linear modules of other families than Llama's: attached, they are as merged."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from analysis import attribute, evaluate_circuit
from analysis.circuits.circuit import Circuit
from analysis.detection.detect import anatomy
from tests.support.families.build import build
from tests.support.families.float64 import Float64
from tests.support.models import random_pairs

ALL = {"target_modules": "all-linear"}
KINDS: dict[str, dict[str, Any]] = {
    "gpt_neox": ALL,  # rows of heads side by side in one module
    "phi3": {**ALL, "use_dora": True},
    "qwen3_5_text": ALL,  # gates, and linear attention
    "mixtral": {"target_modules": [], "target_parameters": ["gate_up_proj", "down_proj"]},
    "deepseek_v3": {"target_modules": ["q_b_proj", "kv_a_proj_with_mqa", "o_proj"]},
}


def trained(model: Any, **options: Any) -> Any:
    """A LoRA model whose trainable weights have moved."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", **options)
    live = peft.get_peft_model(model, config).double().eval()
    with torch.no_grad():
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 10
    return live


@pytest.mark.parametrize("kind", KINDS)
def test_attached_is_as_merged(kind):
    with Float64():
        model, pairs = build(kind), random_pairs(1, (5,))
        plain = attribute(model, pairs, "EAP", "logit_diff").per_pair
        live = trained(model, **KINDS[kind])
        attached = attribute(live, pairs, "EAP", "logit_diff").per_pair
        merged = attribute(live.merge_and_unload(), pairs, "EAP", "logit_diff").per_pair
    assert (attached - merged).abs().max() < 1e-10 * merged.abs().max()
    assert (attached - plain).abs().max() > 1e-3 * merged.abs().max()


@pytest.mark.parametrize("kind", ["glm4", "olmo2"])
def test_a_bias_that_a_norm_scales_is_shared_by_the_heads(kind):
    """With an adapter's bias before the norm after the heads: the empty circuit is exact."""
    with Float64():
        model, pairs = build(kind), random_pairs(2, (6, 5))
        live = trained(model, target_modules="all-linear", lora_bias=True)
        graph = anatomy(live).graph
        nothing = Circuit(graph, torch.zeros(graph.n_edges, dtype=torch.bool))
        found = evaluate_circuit(live, pairs, nothing, "logit_diff")
        wanted = attribute(live, pairs, "EAP", "logit_diff")
        assert torch.allclose(found.empty, wanted.metric_corrupted, rtol=0, atol=1e-10)

"""The anatomy of a model: its parts, found in the model itself and built into types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from analysis.detection.build import build
from analysis.detection.cache import plan_of
from analysis.models.adapters import check_live
from analysis.models.anatomy import Anatomy, base_model
from analysis.models.graph import Graph
from analysis.models.onload import check_there
from analysis.models.quantised import check_dense, check_quantised

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SUPPORTED = ("gemma2", "gemma3_text", "gpt2", "llama", "mistral", "qwen2", "qwen3")


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


def anatomy(model: nn.Module, kv: str = "grouped") -> Anatomy:
    """Find the parts of a model.

    Nothing is known of any architecture: the model is run on a few tokens and left as it was, or
    what was found of one like it is taken (analysis/detection/cache.py).

    Raises:
        Unsupported: its parts are of a kind that is not known here; the layer and why.
        ValueError: the weights are elsewhere or quantised in a way that is not read, an adapter is
            of a kind that is not served, or `kv` is unknown.
    """
    check_live(model)
    causal_lm: Any = base_model(model)
    check_there(causal_lm)
    kind = type(causal_lm).__name__
    check_quantised(causal_lm.config, kind)
    check_dense(causal_lm, kind)
    plan = plan_of(causal_lm)
    try:
        return build(plan, causal_lm, kv)
    except AttributeError:  # a module that the plan names is not there
        return build(plan_of(causal_lm, again=True), causal_lm, kv)

"""How much room the checkpoints of a run take, from its configuration only.

A checkpoint holds the trained weights and AdamW's two moments in the type of the weights (in
float32 12 bytes a parameter); under DeepSpeed all three in float32 and another copy of the weights
(16). Another optimizer may need less.
"""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig

from launch.processes import local_node, node_of
from train.config import plain

# of the recipes
PARAMETERS = {
    **{"tiny_random": 0.82e6, "tiny_base": 0.82e6, "tiny_lookup": 0.82e6},
    **{"tiny_moe": 1.6e6, "tiny_hybrid": 0.9e6, "tiny_neox": 0.73e6},
    **{"smollm2": 135e6, "qwen_coder": 1.54e9},
}


def checkpoint_bytes(cfg: DictConfig, source: str | None) -> float:
    """About how large a checkpoint of a model (`source`; None: its recipe) is."""
    args = plain(cfg.train.args)
    dtype = str((args.get("model_init_kwargs") or {}).get("dtype", "float32"))
    width = 2 if dtype.endswith("16") else 4
    if args.get("save_only_model"):
        each = width
    else:
        each = 3 * width if cfg.deepspeed.config is None else 16
    return each * trained_parameters(cfg, source)


def trained_parameters(cfg: DictConfig, source: str | None) -> float:
    """The parameters of the model, or at most those of its adapters; no weights are made."""
    if source is None:
        return PARAMETERS[cfg.model.recipe]
    from analysis.models.configuration import empty_model
    from analysis.models.loading import load_config

    whole = empty_model(load_config(source))
    if cfg.peft.method == "none":
        return float(sum(parameter.numel() for parameter in whole.parameters()))
    outside = (whole.get_input_embeddings(), whole.get_output_embeddings())
    matrices = [
        module.weight.shape
        for module in whole.modules()
        if module not in outside and getattr(module, "weight", None) is not None
        if module.weight.ndim == 2
    ]
    return float(cfg.peft.args.get("r", 8) * sum(sum(shape) for shape in matrices))


def checkpoints_kept(cfg: DictConfig) -> int:
    """How many checkpoints the run leaves at most; 1 where its length is not known from here."""
    args = {"save_strategy": "steps", "save_steps": 500, **plain(cfg.train.args)}
    epochs = args.get("num_train_epochs", 3)
    steps = _steps(cfg, args, epochs)
    if args["save_strategy"] == "epoch":
        count = math.ceil(epochs)
    elif args["save_strategy"] == "no" or steps is None:
        count = 1
    else:
        every = args["save_steps"]
        count = math.ceil(steps / (every if every >= 1 else steps * every))
    return min(count, args.get("save_total_limit") or count)


def _steps(cfg: DictConfig, args: dict[str, Any], epochs: float) -> float | None:
    """The steps of the run, or None if they depend on the size of a data set unread."""
    if args.get("max_steps", -1) > 0:
        return float(args["max_steps"])
    if cfg.data.size is None:
        return None
    r = cfg.resources
    node = node_of(r) if r.kind == "slurm" else local_node(r)
    rows = cfg.data.size * (args.get("num_generations", 8) if cfg.train.kind == "grpo" else 1)
    batch = args.get("per_device_train_batch_size", 8) * args.get("gradient_accumulation_steps", 1)
    return math.ceil(rows / (batch * r.nodes * node.processes)) * epochs

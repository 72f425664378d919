"""What tracking will need beside the training, told from a configuration before anything is loaded.

The model is made without weights, and what its layers keep of a token is counted on it
(analysis/attribution/graph_bytes.py). The pairs are made as the run makes them. Of layers that are
no plain attention with an MLP the sums are told as if they were; once there is a model,
`headlab track plan=true` measures instead.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from train.config import plain

GIB = 2**30
PROCESS = 0.6 * GIB  # of Python with its libraries, on a CPU
GAPS = 1.5  # times what is kept, on a CPU, where the C library leaves gaps (docs/LOG.md)
BATCH, ROUNDS = 256, 8  # of the products that tell the machine's speed
# seconds; they are of the products only, which are the lesser part of what a small model takes
WORTH_SAYING = 10.0


@dataclass(frozen=True)
class Needs:
    """Bytes of the process at the most with tracking, layers run once and twice; seconds.

    seconds: of one checkpoint's attribution at the least, on a CPU of this machine; None: of a GPU.
    """

    once: float
    twice: float
    seconds: float | None
    pairs: int
    length: int


def needs(cfg: DictConfig, source: str, on_gpu: bool) -> Needs | None:
    """What tracking the model in a directory needs; None where that can't be told."""
    import torch

    from analysis.attribution.eap import MEMORY_BUDGET
    from analysis.attribution.graph_bytes import graph_bytes_of_shape
    from analysis.attribution.memory import need
    from analysis.attribution.quadrature import AT_ENDS, fewest_points
    from analysis.models.configuration import empty_model
    from analysis.models.loading import load_config, load_tokenizer
    from train.build import run_pairs, tracking_settings

    tracking = tracking_settings(cfg)
    if tracking is None:
        return None
    config = load_config(source)
    try:
        whole = empty_model(config).to(_dtype(cfg))
        layers = _layers(whole)
        kept = graph_bytes_of_shape(whole.requires_grad_(False).eval(), layers)
        pairs = run_pairs(cfg, load_tokenizer(source))
        sizes = _sizes(config.get_text_config(), whole, len(layers), tracking.kv)
    except Exception:  # it is a note only: what can't be told from here must not stop a launch
        return None
    length = max(len(pair.clean_ids) for pair in pairs)
    size = min(tracking.batch_size, len(pairs))
    points = fewest_points(tracking.method, tracking.ig_steps)
    of_batch = [
        need(sizes, kept, size, length, MEMORY_BUDGET, points, 0.0, r) for r in (False, True)
    ]
    # a GPU's allocator counts what is asked for
    gaps, process = (1.0, 0.0) if on_gpu else (GAPS, PROCESS)
    beside = _state(cfg, sizes.weights) + process
    once, twice = (beside + gaps * each.above for each in of_batch)
    tokens = sum(len(pair.clean_ids) for pair in pairs)
    matrices = sum(p.numel() for p in whole.parameters() if p.ndim > 1)
    matrices -= whole.get_input_embeddings().weight.numel()
    passes = 2 + points * (1 if tracking.method in AT_ENDS else 2)
    flops = 2.0 * matrices * tokens * passes
    width = config.get_text_config().hidden_size
    seconds = None if on_gpu else flops / _flops_a_second(width, torch.float32)
    return Needs(once, twice, seconds, len(pairs), length)


def _dtype(cfg: DictConfig) -> Any:
    """In which the training loads the model."""
    import torch

    options = plain(cfg.train.args).get("model_init_kwargs") or {}
    found = getattr(torch, str(options.get("dtype", "float32")).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def _layers(model: Any) -> Any:
    """The decoder's layers: its longest list of modules, not one within a layer (of experts)."""
    from torch import nn

    from analysis.detection.layers import text_decoder

    parts = text_decoder(model).children()
    return max((part for part in parts if isinstance(part, nn.ModuleList)), key=len)


def _sizes(config: Any, model: Any, layers: int, kv: str) -> Any:
    from analysis.attribution.memory import Sizes
    from analysis.models.graph import Graph

    heads, d = config.num_attention_heads, config.hidden_size
    shared = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or d // heads
    copies = heads if kv == "ungrouped" else shared
    parameters = list(model.parameters())
    return Sizes(
        heads=layers * heads * width,
        nodes=layers,
        rows=layers * (heads + 2 * copies) * width,
        taps=layers,
        readings=layers,
        layers=layers,
        width=d,
        vocabulary=config.vocab_size,
        itemsize=4,
        own=parameters[0].element_size(),
        weights=sum(p.numel() * p.element_size() for p in parameters),
        graph=Graph(layers, heads, shared, kv),
    )


def _state(cfg: DictConfig, weights: int) -> float:
    """Bytes of weights, gradients and optimizer where the tracked model is; AdamW's is taken.

    With where=checkpoint the model that is tracked is a copy beside that.
    """
    if cfg.tracking.where == "sidecar":
        return float(weights)
    copy = float(weights) if cfg.tracking.where == "checkpoint" else 0.0
    return copy + (1.0 if cfg.peft.method != "none" else 4.0) * weights


def _flops_a_second(width: int, dtype: Any) -> float:
    """Of products as the model's are, on this machine as it is now."""
    import torch

    a, b = torch.ones(BATCH, width, dtype=dtype), torch.ones(width, 4 * width, dtype=dtype)
    a @ b
    began = time.perf_counter()
    for _ in range(ROUNDS):
        a @ b
    return ROUNDS * 2.0 * BATCH * 4 * width**2 / (time.perf_counter() - began)


def tracking_notes(cfg: DictConfig, source: str, on_gpu: bool, free: int | None) -> list[str]:
    """What tracking will need, in a line, and another where that is not free.

    on_gpu: whether the training computes there. free: bytes; None: not known.
    """
    found = needs(cfg, source, on_gpu)
    if found is None:
        return []
    twice = plain(cfg.tracking)["recompute"] is True
    peak = found.twice if twice else found.once
    what = "of the GPU" if on_gpu else "of the process"
    is_known = found.seconds is not None and found.seconds >= WORTH_SAYING
    took = f", and at least {found.seconds:.0f} s a checkpoint" if is_known else ""
    notes = [
        f"tracking {found.pairs} pairs of up to {found.length} tokens will take about "
        f"{peak / GIB:.1f} GiB {what}, the training's state included{took}"
    ]
    if free is not None and peak > free:
        recompute = "" if twice else f"tracking.recompute=true ({found.twice / GIB:.1f} GiB), "
        notes.append(
            f"that may not fit the {free / GIB:.1f} GiB that are free; give {recompute}a smaller "
            "tracking.batch_size, or tracking.where=sidecar"
        )
    return notes

"""The plain model with whole weights, to read, of a trainer that has divided it over the ranks.

A callback that wants to look at the model must not run what the trainer runs: DeepSpeed's engine
and FSDP gather and free weights at each pass, and wait for the other ranks in it. `whole_model`
gives the plain model instead, and with it training is bit-identical to a run nobody looked at.

    DDP, ZeRO-1, ZeRO-2   the model itself, without its wrappers
    ZeRO-3                the model itself, its parameters gathered (`GatheredParameters`) and the
                          engine's hooks taken off meanwhile, as TRL does for generation
    FSDP1                 a copy around the weights that `summon_full_params` gathers
    FSDP2                 a copy around `full_tensor()` of each parameter

Each rank holds all weights once meanwhile, in the precision that the optimizer has them in, as it
would under DDP. A model whose modules are split (tensor, context, pipeline or expert parallelism)
is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from analysis.live.compat import without_engine_hooks
from analysis.live.plain_copy import plain_copy
from analysis.models.anatomy import base_model
from analysis.models.compat import unwrapped

if TYPE_CHECKING:
    from transformers import Trainer

    from analysis.models.loading import Model

# how dimensions of a mesh are called that split modules or sequences: transformers, accelerate
_SPLIT = {
    "tp": "tensor parallelism",
    "ep": "expert parallelism",
    "pp": "pipeline parallelism",
    "cp": "context parallelism",
    "sp": "sequence parallelism",
}


@contextmanager
def whole_model(model: nn.Module, trainer: Trainer | None = None) -> Iterator[Model]:
    """The model with whole weights, to read; to be entered by all ranks, between two steps.

    model: as the trainer hands it to a callback. trainer: needed under ZeRO-3 only.

    Raises:
        ValueError: the modules are split, or ZeRO-3 has divided the weights and `trainer` is None.
    """
    _refuse_split(model, trainer)
    kind = _divided_by(model)
    if kind == "zero3":
        with _gathered_by_deepspeed(trainer):
            yield unwrapped(model)
    elif kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            copy = plain_copy(model, torch.clone)  # what is gathered goes with the context
        _restore_buffers(copy)
        yield copy
    elif kind == "fsdp2":
        _reshard(model)
        yield plain_copy(model, _full)
    else:
        yield unwrapped(model)


def _divided_by(model: nn.Module) -> str | None:
    """Who has divided a model's parameters over the ranks: zero3, fsdp1, fsdp2, or nobody."""
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return "zero3"
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    parts = list(model.modules())
    if any(isinstance(part, FullyShardedDataParallel) for part in parts):
        return "fsdp1"
    return "fsdp2" if any(isinstance(part, FSDPModule) for part in parts) else None


def _refuse_split(model: nn.Module, trainer: Trainer | None) -> None:
    """Raise ValueError if single modules, or the sequences that they see, are split over ranks."""
    dimension = next(_split_dimensions(model, trainer), None)
    if dimension is not None:
        raise ValueError(
            f"this training uses {_SPLIT[dimension]}, under which no process runs a whole layer on "
            "a whole sequence, so that its heads can't be measured while it goes on; train with "
            "FSDP, ZeRO or DDP only, or measure its checkpoints (headlab track)"
        )


def _split_dimensions(model: nn.Module, trainer: Trainer | None) -> Iterator[str]:
    """The keys of _SPLIT that are in force: as the trainer, the model or its weights say."""
    config = getattr(base_model(unwrapped(model)), "config", None)
    of_model = getattr(config, "distributed_config", None)
    meshes = [getattr(parameter, "device_mesh", None) for parameter in model.parameters()]
    named = {name for mesh in meshes for name in getattr(mesh, "mesh_dim_names", None) or ()}
    for dimension in _SPLIT:
        size = getattr(of_model, f"{dimension}_size", None) or 1
        of_trainer = getattr(trainer, f"get_{dimension}_size", None)
        if dimension in named or size > 1 or (of_trainer is not None and of_trainer() > 1):
            yield dimension


@contextmanager
def _gathered_by_deepspeed(trainer: Trainer | None) -> Iterator[None]:
    if trainer is None:
        raise ValueError(
            "ZeRO-3 has divided this model's weights over the processes, and they can be gathered "
            "through the trainer only; give it: HeadTracking(..., trainer=trainer)"
        )
    import deepspeed

    engine: Any = trainer.model_wrapped
    with deepspeed.zero.GatheredParameters(list(engine.parameters())), without_engine_hooks(engine):
        yield


def _reshard(model: nn.Module) -> None:
    """Have all modules hold their parts: an evaluation leaves some of them whole, in low precision.

    The next pass gathers them again.
    """
    from torch.distributed.fsdp import FSDPModule

    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _full(parameter: nn.Parameter) -> torch.Tensor:
    """A parameter of FSDP2, whole; one that it was told to leave alone as it is."""
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor):
        return parameter
    part: Any = parameter.to(parameter.device_mesh.device_type)  # where it is offloaded
    whole: torch.Tensor = part.full_tensor()
    return whole


def _restore_buffers(copy: Any) -> None:
    """Give a copy the buffers of its configuration, which FSDP1's mixed precision has rounded.

    With rounded frequencies of rotary embeddings a model computes otherwise than its checkpoint.
    """
    from accelerate import init_empty_weights

    inner = base_model(copy)
    if all(b.dtype not in (torch.bfloat16, torch.float16) for b in inner.buffers()):
        return
    with init_empty_weights(include_buffers=False):
        fresh = dict(type(inner)(inner.config).named_buffers())
    for name, buffer in list(inner.named_buffers()):
        if name in fresh:
            holder, _, last = name.rpartition(".")
            setattr(inner.get_submodule(holder), last, fresh[name].to(buffer.device))

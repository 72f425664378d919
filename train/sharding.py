"""DeepSpeed around a trainer: its set-up, and the proof that it is in force."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from train.compat import forget_world, without_shm_operator

if TYPE_CHECKING:
    from transformers import Trainer


# what `alone` sets in the environment, and accelerate when it finds that
WORLD = [
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "ACCELERATE_USE_DEEPSPEED",
]

STAGES = (0, 1, 2, 3)


class NotInForce(Exception):
    """DeepSpeed was asked for, and the trainer does not train under it."""


def zero_stage(config: Mapping[str, Any] | None) -> int:
    """The ZeRO stage of a DeepSpeed configuration; 0 for None."""
    return int(((config or {}).get("zero_optimization") or {}).get("stage") or 0)


def check_config(config: Mapping[str, Any] | None) -> None:
    """Raise ValueError for a ZeRO stage that there is not, or checkpoints without their weights."""
    zero = (config or {}).get("zero_optimization") or {}
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if not isinstance(zero, dict) or (stage is not None and stage not in STAGES) or stage is True:
        raise ValueError(
            f"deepspeed.config.zero_optimization{'.stage' if isinstance(zero, dict) else ''} is "
            f"{stage if isinstance(zero, dict) else zero!r}; choose stage 0, 1, 2 or 3 "
            "(deepspeed=zero1, zero2 or zero3)"
        )
    if zero_stage(config) == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ValueError(
            "under ZeRO-3 a checkpoint holds whole weights only with "
            "deepspeed.config.zero_optimization.stage3_gather_16bit_weights_on_model_save=true; "
            "set it (deepspeed=zero3 does)"
        )


def alone() -> bool:
    """Give a process that no launcher started the environment of a world of one; `leave` ends it.

    Returns:
        Whether it did: False where there is such an environment.
    """
    if "RANK" in os.environ:
        return False
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return True


def leave() -> None:
    """Take down what `alone` and then DeepSpeed have set up in this process.

    Whatever trains here next would be trained under DeepSpeed too, asked for or not.
    """
    import torch.distributed as dist

    forget_world()
    if dist.is_available() and dist.is_initialized():
        from deepspeed import comm

        (comm if comm.is_initialized() else dist).destroy_process_group()
    for name in WORLD:
        os.environ.pop(name, None)


def set_up(on_cpu: bool) -> None:
    """Start DeepSpeed's communication; to be called once the training arguments are built.

    On a CPU it would otherwise compile an operator of its own first, and under ZeRO-3 count the
    processes wrongly.
    """
    import deepspeed

    if on_cpu:
        without_shm_operator()
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    else:
        deepspeed.init_distributed(auto_mpi_discovery=False)


def check_in_force(trainer: Trainer, config: Mapping[str, Any] | None) -> None:
    """Raise NotInForce unless the trainer really trains under the DeepSpeed that was asked for.

    Some launchers drop it without a word: accelerate does under its --cpu flag.
    """
    if config is None:
        return
    engine: Any = trainer.model_wrapped  # DeepSpeed's engine, or a model
    found = type(engine).__name__
    if found != "DeepSpeedEngine":
        raise NotInForce(
            f"deepspeed was asked for and is not in force (the trainer runs a {found}): the way "
            "this process was started switches it off; start it with headlab launch or torchrun"
        )
    if engine.zero_optimization_stage() != zero_stage(config):
        raise NotInForce(
            f"ZeRO stage {zero_stage(config)} was asked for and stage "
            f"{engine.zero_optimization_stage()} is in force; remove other DeepSpeed settings "
            "(an accelerate configuration, environment variables ACCELERATE_DEEPSPEED_*)"
        )

"""The processes of one node: how many there are, their command and their environment.

A process uses one GPU. One process without DeepSpeed is started as it is; otherwise torchrun starts
them (launch/torchrun.py), also a single one, because DeepSpeed wants its process group.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from train.program import program

GRACE = 110  # seconds that processes asked to stop have to save a checkpoint before they are killed


@dataclass(frozen=True)
class Node:
    """What a run uses of one node; without GPUs it computes on the CPU."""

    gpus: int
    processes: int


def visible_gpus() -> int:
    """The GPUs that a process started from here can use."""
    import torch

    return int(torch.cuda.device_count())


def node_of(resources: DictConfig, visible: int | None = None) -> Node:
    """What resources.gpus and resources.processes come to.

    `visible` is the number of GPUs of this machine, where they are taken as they are; a number of
    processes that is given then limits it.
    """
    gpus, processes = resources.gpus, resources.processes
    if gpus is None:
        visible = visible or 0
        gpus = visible if processes is None else min(visible, processes)
    return Node(gpus, processes or max(1, gpus))


def local_node(resources: DictConfig) -> Node:
    """`node_of` on this machine; torch is only asked for GPUs if the answer matters."""
    return node_of(resources, visible_gpus() if resources.gpus is None else None)


def command(cfg: DictConfig, node: Node, config_file: Path, meeting: list[str]) -> list[str]:
    """The command that runs a resolved configuration on one node.

    `meeting` are torchrun's options that say where the processes of all nodes meet.
    """
    trainer = program("train.run", str(config_file))
    alone = cfg.resources.nodes == 1 and node.processes == 1 and cfg.deepspeed.config is None
    if alone:
        return trainer
    count = f"--nproc-per-node={node.processes}"
    return [*program("launch.torchrun"), *meeting, count, "--no-python", *trainer]


def environment(
    cfg: DictConfig, node: Node, outer: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables that the processes of a node get, besides the outer ones that they inherit."""
    outer = os.environ if outer is None else outer
    found = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE)}
    if cfg.resources.threads is not None:
        found["OMP_NUM_THREADS"] = str(cfg.resources.threads)
    elif node.processes > 1:
        found["OMP_NUM_THREADS"] = outer.get("OMP_NUM_THREADS", "1")
    if node.gpus == 0:
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found

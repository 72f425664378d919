"""What the processes of a distributed run tell each other; one process alone is a run of one rank.

Everything here goes through a gloo group of its own, in the host's memory: it waits as long as a
measurement takes, without the time-out of the training's own group, and never makes a GPU wait.
Every function but `rank` and `world_size` must be called by all ranks, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
PATIENCE = timedelta(days=2)


def rank() -> int:
    return dist.get_rank() if _distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if _distributed() else 1


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


@cache
def _group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def wait_for_all() -> None:
    """Go on when every rank has come here."""
    if world_size() > 1:
        dist.barrier(group=_group())


def any_rank(flag: bool) -> bool:
    """Whether the flag is true on some rank."""
    if world_size() == 1:
        return flag
    found = torch.tensor([int(flag)])
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_group())
    return bool(found)


def main_decides(decide: Callable[[], bool]) -> bool:
    """The answer of rank 0, the only one that is asked."""
    return any_rank(rank() == 0 and decide())


def from_main(make: Callable[[], T]) -> T:
    """On every rank what `make` gives on rank 0, the only one that calls it; it must not fail."""
    found: list[T | None] = [make() if rank() == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(found, group=_group(), group_src=0)
    return found[0]  # type: ignore[return-value]


def together(act: Callable[[], T]) -> T:
    """The result of `act`; if it fails on a rank it fails on all, so that none waits for another.

    Raises:
        RuntimeError: it failed on other ranks and not on this one, which raises its own error.
    """
    error: Exception | None = None
    try:
        result = act()
    except Exception as caught:
        error = caught
    if any_rank(error is not None):
        raise error or RuntimeError("another rank failed; its own message says why")
    return result


def my_rows(count: int) -> list[int]:
    """The rows of `count` that this rank is to fill: every n-th, so that the shares are alike."""
    return list(range(rank(), count, world_size()))


def all_rows(mine: torch.Tensor, count: int) -> torch.Tensor:
    """Put together what each rank filled of its `my_rows`: [len(my_rows), K] -> [count, K].

    Every rank gets the same bits that the rows were filled with, on the CPU.
    """
    mine = mine.cpu()
    if world_size() == 1:
        return mine
    rows = mine.new_zeros(count, mine.shape[1])
    rows[my_rows(count)] = mine
    dist.all_reduce(rows, group=_group())
    return rows

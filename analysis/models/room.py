"""How much memory is free where a model computes."""

from __future__ import annotations

from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still have on a device; None where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return host_memory() if device.type == "cpu" else None


def host_memory() -> int | None:
    """Bytes that are free on this machine, or of what a container may have; None if not known."""
    known = [size for size in (_available(), _left_of_group()) if size is not None]
    return min(known, default=None)


def _available() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        return int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None


def _left_of_group() -> int | None:
    """Of a container's limit (cgroup 2), files that are only cached not counted."""
    try:
        limit, used = (
            int((GROUPS / name).read_text(encoding="utf-8"))  # `max` is no number: no limit
            for name in ("memory.max", "memory.current")
        )
        stat = (GROUPS / "memory.stat").read_text(encoding="utf-8")
        cached = int(stat.split("\ninactive_file ")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return None
    return max(0, limit - used + cached)

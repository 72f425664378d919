"""How the C library handles the memory that this process frees."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what this process frees, for its own next use, instead of returning it.

    Attribution frees and asks again for the same large blocks; a page that the system took back in
    between must be faulted in and cleared anew, which cost 7 % of the time on a virtual machine
    (docs/LOG.md). Blocks above 32 MiB, glibc's own upper bound, are returned as ever. The
    process stays as large as it once was. Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Let glibc return what this process has freed.

    Where small things that stay are made between large ones that go, as in a walk over hundreds of
    records, the gaps add up to gigabytes. Does nothing where the C library is another one.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

"""A call that is waited for only so long: what hangs in another's library holds up no training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(limit: float, work: Callable[[], T], what: str) -> T:
    """What `work` returns, in `limit` seconds; it goes on in its thread where that is too short.

    Raises:
        TimeoutError: it has not returned in time; `what` says what it does.
        Exception: what it raises.
    """
    done: queue.SimpleQueue[tuple[bool, object]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((True, work()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=run, name=what, daemon=True).start()
    try:
        well, found = done.get(timeout=limit)
    except queue.Empty:
        raise TimeoutError(f"{what} has not ended in {limit:g} seconds") from None
    if not well:
        assert isinstance(found, BaseException)
        raise found
    return found  # type: ignore[return-value]

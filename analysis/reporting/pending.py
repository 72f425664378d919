"""Messages on their way to another process, whose length is known while they wait."""

from __future__ import annotations

import threading
from collections import deque


class Pending:
    """Nobody waits to put one in; who could keep it ready elsewhere asks first if there is room."""

    def __init__(self, most: int) -> None:
        """most: characters that may wait."""
        self.most = most
        self._messages: deque[str | None] = deque()
        self._length = 0
        self._taken = 0  # of it, what was taken last
        self._is_open = True
        self._changed = threading.Condition()

    def put(self, message: str | None) -> None:
        """Add a message, None after the last. After `close` it is forgotten."""
        with self._changed:
            if self._is_open:
                self._messages.append(message)
                self._length += len(message or "")
                self._changed.notify_all()

    def take(self) -> str | None:
        """The next message, once there is one. It counts until the one after it is taken."""
        with self._changed:
            self._length -= self._taken
            self._taken = 0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._messages)
            message = self._messages.popleft()
            self._taken = len(message or "")
            return message

    def has_room(self, wait: float = 0.0) -> bool:
        """Whether less than `most` waits now, or within `wait` seconds; so it is once closed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._length < self.most, wait)

    def close(self) -> None:
        """Forget what waits, and what comes: nobody takes it any more."""
        with self._changed:
            self._is_open = False
            self._messages.clear()
            self._length = 0
            self._changed.notify_all()

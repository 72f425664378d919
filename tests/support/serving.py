"""The server of `headlab watch`, in a thread of the tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from analysis.watch.server import build


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of a server of the runs below a directory."""
    app = build(root)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    app.state.is_ending = lambda: server.should_exit
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)

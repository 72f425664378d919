"""As much of the Hugging Face hub as its client needs, on loopback: models in directories.

    with Hub(ROOT) as hub:      # ROOT/OWNER/NAME/REVISION/files
        environment = hub.environment

delay: seconds before each answer. broken: it answers status 503.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


class Hub:
    """asked: the paths of the requests, in order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.delay, self.broken = 0.0, False
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._http = _Http(("127.0.0.1", 0), handler)

    def __enter__(self) -> Hub:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self._http.server_address[1]}"}

    def commit(self, name: str, revision: str) -> str:
        """A hash of what a revision holds, as on the hub."""
        files = sorted((self.root / name / revision).iterdir())
        content = b"".join(file.name.encode() + file.read_bytes() for file in files)
        return hashlib.sha1(content).hexdigest()

    def directory(self, name: str, revision: str) -> Path | None:
        """That of a branch or a commit."""
        there = self.root / name
        for path in there.iterdir() if there.is_dir() else ():
            if revision in (path.name, self.commit(name, path.name)):
                return path
        return None


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nothing to speak of."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *parts: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(path)
        with contextlib.suppress(ConnectionError):
            time.sleep(self.hub.delay)
            if self.hub.broken:
                self._send(503, b"busy")
            elif about := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/(revision|tree)/(.+))?", path):
                self._describe(about[1], about[4] or "main", about[3] == "tree")
            elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(*file.groups())
            else:
                self._missing("RepoNotFound")

    do_GET = do_HEAD = _answer

    def _describe(self, name: str, revision: str, as_tree: bool) -> None:
        directory = self.hub.directory(name, revision)
        if directory is None:
            known = (self.hub.root / name).is_dir()
            return self._missing("RevisionNotFound" if known else "RepoNotFound")
        files = sorted(directory.iterdir())
        if as_tree:
            return self._json([self._entry(file) for file in files])
        commit = self.hub.commit(name, directory.name)
        siblings = [{"rfilename": file.name} for file in files]
        return self._json({"id": name, "sha": commit, "siblings": siblings, "tags": []})

    def _entry(self, file: Path) -> dict[str, Any]:
        etag = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": etag}

    def _file(self, name: str, revision: str, file: str) -> None:
        directory = self.hub.directory(name, revision)
        if directory is None or not (directory / file).is_file():
            return self._missing("EntryNotFound")
        content = (directory / file).read_bytes()
        tag = self._entry(directory / file)["oid"]
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": self.hub.commit(name, directory.name)}
        return self._send(200, content, headers)

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

"""As much of a W&B server as its client needs, on loopback: runs, rows and uploads, in memory.

    with Server() as server:
        environment = server.environment
        ...
        server.down()          # nobody listens, and what is not answered yet is lost; `up` brings
                               # it back, with what it had

delay: seconds before each answer. broken: it answers status 500.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ACCOUNT = {"id": "1", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}}
VERSIONS = {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "features": []}


class Server:
    """rows: by run, each with its number in the run's history. state: by run, how it ended.

    views: by name, with id, displayName and spec. alerts: what runs have raised.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        self.state: dict[str, str] = {}
        self.views: dict[str, dict[str, str]] = {}
        self.alerts: list[dict[str, Any]] = []
        self.delay, self.broken, self.requests = 0.0, False, 0
        self._port = 0
        self._http: ThreadingHTTPServer | None = None
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Server:
        self.up()
        return self

    def __exit__(self, *error: object) -> None:
        self.down()

    @property
    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self._port}"
        return {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}

    def up(self) -> None:
        handler = type("Handler", (_Handler,), {"of": self})
        self._http = _Http(("127.0.0.1", self._port), handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
            for connection in self.connections:  # those that were kept alive
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.connections.clear()

    def serves(self, http: object) -> bool:
        """Whether nothing has gone down since `http` took a request."""
        return http is self._http

    def named(self, key: str) -> list[Any]:
        """The values of a key in the rows of the only run, in order."""
        [rows] = self.rows.values() or [{}]
        return [row[key] for _, row in sorted(rows.items()) if key in row]

    def answer(self, path: str, content: bytes) -> dict[str, Any]:
        """What a request gets."""
        with self._lock:
            self.requests += 1
            if path == "/graphql":
                asked = json.loads(content)
                return {"data": self._graphql(asked["query"], asked.get("variables") or {})}
            if path.endswith("/file_stream"):
                self._stream(path.split("/")[-2], json.loads(content))
            return {}

    def _stream(self, run: str, asked: dict[str, Any]) -> None:
        part = (asked.get("files") or {}).get("wandb-history.jsonl")
        if part is not None:
            for number, line in enumerate(part["content"], part["offset"]):
                self.rows.setdefault(run, {})[number] = json.loads(line)
        if asked.get("complete"):
            self.state[run] = "failed" if asked.get("exitcode") else "finished"

    def _bucket(self, run: str) -> dict[str, Any]:
        rows = self.rows.setdefault(run, {})
        tail = [json.dumps(rows[max(rows)])] if rows else []
        # a run whose wandbConfig has no "t" is one that never began, and is not resumed
        empty = {"config": "{}", "summaryMetrics": "{}", "wandbConfig": '{"t": 1}'}
        project = {"id": "1", "name": "headlab", "entity": {"id": "1", "name": "us"}}
        counts = {"historyLineCount": len(rows), "logLineCount": 0, "eventsLineCount": 0}
        tails = {"historyTail": json.dumps(tail), "eventsTail": "[]", "tags": []}
        names = {"id": run, "name": run, "displayName": run, "project": project}
        return {**names, **empty, **counts, **tails}

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            run = given["name"]
            return {"upsertBucket": {"inserted": run not in self.rows, "bucket": self._bucket(run)}}
        if "historyTail" in query:
            run = given["name"]
            bucket = self._bucket(run) if self.rows.get(run) else None
            return {"model": {"id": "1", "name": "headlab", "bucket": bucket}}
        if "createRunFiles" in query:
            files = [self._file(name) for name in given.get("files") or []]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        for mutation in ("createArtifactManifest", "updateArtifactManifest"):
            if mutation in query:
                manifest = {"id": "1", "file": {"id": "1", **self._file("manifest")}}
                return {mutation: {"artifactManifest": manifest}}
        if "createArtifactFiles" in query:
            wanted = given.get("storageFiles") or given.get("artifactFiles") or []
            edges = [{"node": {"artifact": {"id": "1"}, **self._file(w["name"])}} for w in wanted]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if "createArtifact" in query:
            sequence = {"id": "1", "latestArtifact": None}
            made = {"id": "1", "digest": "d", "state": "PENDING", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": made}}
        if "commitArtifact" in query:
            return {"commitArtifact": {"artifact": {"id": "1", "digest": "d"}}}
        if "allViews" in query:
            there = self.views.get(given["viewName"])
            return {"project": {"allViews": {"edges": [{"node": there}] if there else []}}}
        if "upsertView" in query:
            inserted = given["name"] not in self.views
            view = {"id": given["name"], "name": given["name"], "spec": given["spec"]}
            self.views[given["name"]] = {**view, "displayName": given["displayName"]}
            return {"upsertView": {"view": view, "inserted": inserted}}
        if "notifyScriptableRunAlert" in query:
            self.alerts.append(given)
            return {"notifyScriptableRunAlert": {"success": True}}
        if "viewer" in query or "serverInfo" in query:
            return {"viewer": ACCOUNT, "serverInfo": VERSIONS}
        return {"project": None}

    def _file(self, name: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}/upload/{name}"
        return {"id": "1", "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": []}


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nothing to speak of."""


class _Handler(BaseHTTPRequestHandler):
    of: Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.of.connections.add(self.connection)

    def log_message(self, *parts: object) -> None:
        pass

    def _answer(self) -> None:
        with contextlib.suppress(ConnectionError):
            content = self._content()
            time.sleep(self.of.delay)
            if not self.of.serves(self.server):  # it went down with what it had not answered
                return
            known = self.path == "/graphql" or "/file_stream" in self.path or "/upload" in self.path
            status = 500 if self.of.broken else 200 if known else 404
            answer = self.of.answer(self.path, content) if status == 200 else {}
            out = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

    do_GET = do_POST = do_PUT = _answer

    def _content(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        zipped = self.headers.get("Content-Encoding") == "gzip"
        return gzip.decompress(content) if zipped else content

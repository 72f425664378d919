"""As much of the Hugging Face hub as its client needs, on loopback: models in directories.

    with Hub(ROOT) as hub:      # ROOT/OWNER/NAME/REVISION/files, ROOT/datasets/OWNER/NAME/...
        environment = hub.environment

delay: seconds before each answer. broken: it answers status 503. token: what whoever writes, or
reads the models named in `private`, must send. cuts: so many downloads of weights end midway.

Uploads are by git's LFS (`*.safetensors`) and in the commit itself (all else): the client's other
way, Xet, is switched off in `environment`.
"""

from __future__ import annotations

import base64
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
    """asked: the paths of the requests, in order. commits: the messages of those that were made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.delay, self.broken = 0.0, False
        self.token = "hf_test"
        self.private: set[str] = set()
        self.cuts = 0
        self.asked: list[str] = []
        self.commits: list[str] = []
        self.stored: dict[str, bytes] = {}  # of LFS, by SHA-256
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
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def commit(self, name: str, revision: str) -> str:
        """A hash of what a revision holds, as on the hub."""
        place = self.root / name / revision
        content = b"".join(file.encode() + (place / file).read_bytes() for file in files_of(place))
        return hashlib.sha1(content).hexdigest()

    def directory(self, name: str, revision: str) -> Path | None:
        """That of a branch or a commit."""
        there = self.root / name
        for path in there.iterdir() if there.is_dir() else ():
            if revision in (path.name, self.commit(name, path.name)):
                return path
        return None


def files_of(directory: Path) -> list[str]:
    """The files below a directory, by their paths in it."""
    there = (file for file in directory.rglob("*") if file.is_file())
    return sorted(file.relative_to(directory).as_posix() for file in there)


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
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with contextlib.suppress(ConnectionError):
            time.sleep(self.hub.delay)
            if self.hub.broken:
                self._send(503, b"busy")
            elif self.command in ("POST", "PUT"):
                self._write(path, sent)
            elif about := re.fullmatch(
                r"/api/(models|datasets)/([^/]+/[^/]+?)(/(revision|tree|refs)(/(.+))?)?", path
            ):
                self._describe(about[1], about[2], about[6] or "main", about[4])
            elif file := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(*file.groups())
            else:
                self._missing("RepoNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _may(self, name: str) -> bool:
        """Whether whoever asks may read a model or data set; if not, as if it were not there."""
        is_known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if name in self.hub.private and not is_known:
            self._missing("RepoNotFound", 401)
            return False
        return True

    def _describe(self, kind: str, name: str, revision: str, what: str | None) -> None:
        name = name if kind == "models" else f"datasets/{name}"
        if not self._may(name):
            return None
        if what == "refs":
            return self._refs(name)
        directory = self.hub.directory(name, revision)
        if directory is None:
            known = (self.hub.root / name).is_dir()
            if what == "tree" and self.hub.directory(name, revision.partition("/")[0]) is not None:
                return self._missing("EntryNotFound")  # no folder is served by itself
            return self._missing("RevisionNotFound" if known else "RepoNotFound")
        files = files_of(directory)
        if what == "tree":
            return self._json([self._entry(directory, file) for file in files])
        commit = self.hub.commit(name, directory.name)
        siblings = [{"rfilename": file} for file in files]
        plain = name.removeprefix("datasets/")
        return self._json({"id": plain, "sha": commit, "siblings": siblings, "tags": []})

    def _refs(self, name: str) -> None:
        place = self.hub.root / name
        if not place.is_dir():
            return self._missing("RepoNotFound")
        branches = [
            {
                "name": path.name,
                "ref": f"refs/heads/{path.name}",
                "targetCommit": self.hub.commit(name, path.name),
            }
            for path in sorted(place.iterdir())
        ]
        return self._json({"branches": branches, "converts": [], "tags": []})

    def _entry(self, directory: Path, file: str) -> dict[str, Any]:
        content = (directory / file).read_bytes()
        etag = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": file, "size": len(content), "oid": etag}

    def _file(self, name: str, revision: str, file: str) -> None:
        directory = self.hub.directory(name, revision)
        if not self._may(name):
            return None
        if directory is None or not (directory / file).is_file():
            return self._missing("EntryNotFound")
        content = (directory / file).read_bytes()
        tag = self._entry(directory, file)["oid"]
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": self.hub.commit(name, directory.name)}
        if begin := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(begin[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(206, content[start:], headers)
        if self.hub.cuts and self.command == "GET" and file.endswith(".safetensors"):
            self.hub.cuts -= 1
            return self._send(200, content, headers, cut=True)
        return self._send(200, content, headers)

    def _write(self, path: str, sent: bytes) -> None:
        """Repositories that are made, and commits, with what LFS stores before."""
        if path.startswith("/lfs/"):
            self.hub.stored[path.rpartition("/")[2]] = sent
            return self._send(200, b"")
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(401, b'{"error": "Invalid username or password."}')
        if path == "/api/validate-yaml":  # of a card
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(sent))
        if path.endswith("/info/lfs/objects/batch"):
            return self._json({"transfer": "basic", "objects": self._places(json.loads(sent))})
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found is None or not (self.hub.root / "datasets" / found[1]).is_dir():
            return self._missing("RepoNotFound")
        if found[2] == "preupload":
            files = [file["path"] for file in json.loads(sent)["files"]]
            modes = {file: "lfs" if file.endswith("tensors") else "regular" for file in files}
            listed = [
                {"path": file, "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for file, mode in modes.items()
            ]
            return self._json({"files": listed})
        return self._commit(f"datasets/{found[1]}", sent)

    def _create(self, given: dict[str, Any]) -> None:
        name = "/".join([f"{given['type']}s", given.get("organization") or "me", given["name"]])
        place = self.hub.root / name / "main"
        if place.is_dir():
            answer = {"error": "You already created this", "url": f"{self.hub.url}/{name}"}
            return self._send(409, json.dumps(answer).encode())
        place.mkdir(parents=True)
        (place / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        if given.get("visibility") == "private" or given.get("private"):
            self.hub.private.add(name)
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _places(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Where LFS wants what it has not got."""
        return [
            entry
            if entry["oid"] in self.hub.stored
            else {
                **entry,
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}},
            }
            for entry in asked["objects"]
        ]

    def _commit(self, name: str, sent: bytes) -> None:
        place = self.hub.root / name / "main"
        for line in sent.decode().splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "header":
                self.hub.commits.append(value["summary"])
                continue
            file = place / value["path"]
            if part["key"] == "deletedFile":
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            is_lfs = part["key"] == "lfsFile"
            content = (
                self.hub.stored[value["oid"]] if is_lfs else base64.b64decode(value["content"])
            )
            file.write_bytes(content)
        commit = self.hub.commit(name, "main")
        url = f"{self.hub.url}/{name}"
        self._json({"commitUrl": f"{url}/commit/{commit}", "commitOid": commit, "success": True})

    def _missing(self, code: str, status: int = 404) -> None:
        self._send(status, b"{}", {"X-Error-Code": code})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        """cut: go away after half of the content."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

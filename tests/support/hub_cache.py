"""A hub without a network: its two functions that are used, over directories of revisions."""

from __future__ import annotations

import hashlib
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from analysis.models import hub


class FakeHub:
    """ROOT/NAME/REVISION/files; `away`: it does not answer. asked: the requests it got."""

    def __init__(self, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.cache, self.away = root, cache, False
        self.asked: list[str] = []
        monkeypatch.setattr("huggingface_hub.model_info", self.model_info)
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)
        self.forget()

    def forget(self) -> None:
        """As in a new process."""
        hub._snapshot.cache_clear()
        hub._resolved.cache_clear()

    def commit(self, name: str, revision: str | None) -> str:
        return hashlib.sha1(f"{name}@{revision or 'main'}".encode()).hexdigest()

    def _find(self, name: str, revision: str | None) -> Path:
        from huggingface_hub.errors import RevisionNotFoundError

        for path in (self.root / name).iterdir():
            if path.name == (revision or "main") or self.commit(name, path.name) == revision:
                return path
        import httpx2

        response = httpx2.Response(404, request=httpx2.Request("GET", "http://hub"))
        raise RevisionNotFoundError("no such revision", response=response)

    def model_info(self, name: str, revision: str | None, timeout: float) -> None:
        self.asked.append(f"{name}@{revision}")
        if self.away:
            raise ConnectionError("nobody answers")
        self._find(name, revision)

    def snapshot_download(self, name: str, revision: str | None, **how: Any) -> str:
        if how.get("local_files_only") or self.away:
            return str(self._cached(name, revision))
        source = self._find(name, revision)
        out = self.cache / name / self.commit(name, source.name)
        out.mkdir(parents=True, exist_ok=True)
        note = self.cache / "refs" / name / (revision or "main")
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(out.name)
        for file in source.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in how["allow_patterns"]):
                shutil.copy(file, out)
        return str(out)

    def _cached(self, name: str, revision: str | None) -> Path:
        direct = self.cache / name / str(revision)
        if direct.is_dir():
            return direct
        note = self.cache / "refs" / name / (revision or "main")
        if not note.is_file():
            raise FileNotFoundError("not in the cache")
        return self.cache / name / note.read_text()

"""The model that is evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.known_circuit import PROBLEMS, save_copier


@pytest.fixture(scope="session")
def copier(tmp_path_factory) -> Path:
    """The model whose circuit is known, with its problems beside it as task.jsonl."""
    directory = tmp_path_factory.mktemp("copier")
    save_copier(directory)
    rows = [json.dumps({"problem": p.question, "answer": p.answer}) for p in PROBLEMS]
    (directory / "task.jsonl").write_text("\n".join(rows) + "\n")
    return directory

"""The loopback hub in the process of a test: the client is told so after it was imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analysis.models import hub as models
from tests.real.hub_server import Hub


@contextmanager
def loopback_hub(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, token: str | None = None
) -> Iterator[Hub]:
    """A hub of the files below `root`, as huggingface_hub's own, with a cache of the test's."""
    from huggingface_hub import constants, hf_api

    with Hub(root) as hub, monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(hf_api.api, "endpoint", hub.url)
        patch.setenv("HF_TOKEN", token or "")
        forget()
        yield hub
        forget()


def forget() -> None:
    """As in a new process."""
    models._snapshot.cache_clear()
    models._resolved.cache_clear()

"""Settings and tiny random models that the tests share. Nothing here needs a network."""

from __future__ import annotations

import os

from tests.support.models import ARCHITECTURES

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("WANDB_API_KEY", None)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Models that tests build are not kept in the user's cache."""
    os.environ["HEADLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def compose() -> Callable[..., Any]:
    """Compose a configuration as the command line does: compose("sft", "experiment=tiny", ...)."""
    from train.entry import compose

    def composed(kind: str, *overrides: str) -> Any:
        return compose(kind, list(overrides))

    return composed


@pytest.fixture
def tiny_dir(tmp_path: Path) -> Path:
    """The embedded tiny model with random weights, as a Hugging Face directory."""
    from train.recipes.tiny import build_random

    directory = tmp_path / "tiny"
    build_random(directory, seed=0)
    return directory

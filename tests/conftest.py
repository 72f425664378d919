"""Settings and tiny random models that the tests share. Nothing here needs a network."""

from __future__ import annotations

import functools
import gc
import logging
import os
import shutil
import sys

from tests.support.models import ARCHITECTURES

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("WANDB_API_KEY", None)

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Models that tests build are not kept in the user's cache."""
    os.environ["HEADLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


_frozen = 0  # modules that were there when the collector was last told of them


@pytest.fixture(autouse=True)
def collecting_leaves_out_what_was_imported() -> None:
    """Each trainer and study calls gc.collect(), which took 0.4 s with all packages loaded."""
    global _frozen
    if len(sys.modules) > _frozen + 100:
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def no_place_among_processes_is_left() -> Iterator[None]:
    """A run that was prepared for DeepSpeed and never trained leaves no world for later tests."""
    before = "RANK" in os.environ
    yield
    if "RANK" in os.environ and not before:
        from train.sharding import leave

        leave()


@pytest.fixture(autouse=True)
def logging_is_as_before() -> Iterator[None]:
    """Hydra and `show_messages` set up the root logger, and what it is given later writes anew.

    Its handlers would write to streams that pytest has closed, and a command that finds one there
    adds none of its own.
    """
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def compose() -> Callable[..., Any]:
    """Compose a configuration as the command line does: compose("sft", "experiment=tiny", ...)."""
    from train.entry import compose

    def composed(kind: str, *overrides: str) -> Any:
        return compose(kind, list(overrides))

    return composed


@pytest.fixture(scope="session")
def tiny_model_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tiny_dir` is a copy of; nothing may be changed here."""
    from train.recipes.tiny import build_random

    directory = tmp_path_factory.mktemp("tiny") / "tiny"
    build_random(directory, seed=0)
    return directory


@pytest.fixture
def tiny_dir(tmp_path: Path, tiny_model_files: Path) -> Path:
    """The embedded tiny model with random weights, as a Hugging Face directory of the test's."""
    return Path(shutil.copytree(tiny_model_files, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_files: Path, compose: Callable[..., Any]
) -> Callable[..., Path]:
    """finished_run("sft", ...): the directory of such a small run, trained once and only read."""
    from tests.support.runs import small
    from train.run import prepare, run

    @functools.cache
    def finished(kind: str, *more: str) -> Path:
        directory = tmp_path_factory.mktemp("finished") / "r"
        run(prepare(compose(kind, *small(kind, tiny_model_files, directory, *more))))
        return directory

    return finished

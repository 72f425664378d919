"""A launcher in a directory of the test's, beside a Slurm of one machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.launches import Launch, variables
from tests.support.slurm_fakes import install
from tests.support.warm import warm_python


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    return install(tmp_path / "slurm's bin")


@pytest.fixture
def launch(tmp_path: Path, fakes: Path) -> Launch:
    """`headlab launch` in a directory whose name needs quoting, with a Slurm of one machine."""
    directory = tmp_path / "a $dir's"
    directory.mkdir()

    def launched(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm_python(), "-m", "launch", *words],
            cwd=directory,
            env=variables(fakes),
            capture_output=True,
            text=True,
        )

    launched.directory = directory  # type: ignore[attr-defined]
    return launched

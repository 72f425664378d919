"""What the tests against real parts share; `make test-real` installs the parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.slurm import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm of two nodes on this machine."""
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    yield started
    started.stop()

"""The worlds that tests share."""

from __future__ import annotations

import pytest

from mpi.worlds import Worlds


@pytest.fixture(scope="session")
def worlds(mpiexec: list[str]) -> Worlds:
    return Worlds(mpiexec)

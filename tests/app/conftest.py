from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.running import Running


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path)
    yield one
    one.close()

"""The demo, run as it is: its app checks the guests, and the result.

The other recipes that boot here are in test_recipes.py (iperf) and test_cloud_init.py (mpi-hello, debian12-built).
"""

from __future__ import annotations

import pytest

from boot.test_guests import nothing_left
from support import StartMvpnet

pytestmark = pytest.mark.timeout(1200)


def test_the_demo_runs_to_its_end(start_mvpnet: StartMvpnet) -> None:
    job = start_mvpnet("recipe=demo", "vm.accel=tcg", "hydra.run.dir=run", ranks=2)
    end = job.finish(800)
    assert end.code == 0, end
    assert all(text in end.stdout for text in ("n0000 n0001", "SHA-256 the same three times", "Mbit/s")), end
    nothing_left(job)

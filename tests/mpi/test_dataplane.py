"""The data plane between real ranks: one body (dataplane_body.py) under mpiexec, for one, two and four of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BODY = Path(__file__).with_name("dataplane_body.py")
CASES = [
    "all_to_all",
    "bad_frames",
    "forged_messages",
    "any_messages",
    "flood",
    "guest_that_does_not_read",
    "guest_that_is_gone",
    "link_that_breaks",
    "another_guest",
    "shutdown",
    "no_link",
    "too_large_control",
    "doorbell",
]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("kind", ["stream", "dgram"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("compiled", ["compiled", "python"])
def test_dataplane(mpiexec: list[str], ranks: int, kind: str, case: str, compiled: str) -> None:
    done = subprocess.run(
        [*mpiexec, "-n", str(ranks), sys.executable, "-W", "error", "-m", "mpi4py", str(BODY), kind, case, compiled],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is through") == ranks, done.stdout + done.stderr

"""Any bytes from peers and from a guest, between real ranks: see fuzz_body.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BODY = Path(__file__).with_name("fuzz_body.py")


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", ["stream", "dgram"])
@pytest.mark.parametrize(
    ("case", "compiled"),
    [("peers", "python"), *[(case, how) for case in ("guest", "messages") for how in ("compiled", "python")]],
)
def test_fuzz(mpiexec: list[str], ranks: int, kind: str, case: str, compiled: str) -> None:
    done = subprocess.run(
        [*mpiexec, "-n", str(ranks), sys.executable, "-W", "error", "-m", "mpi4py", str(BODY), kind, case, compiled],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is through") == ranks, done.stdout + done.stderr

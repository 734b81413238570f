"""Any bytes from peers and from a guest, between real ranks: see fuzz_body.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpi.worlds import Worlds, case_name, same_world

pytestmark = pytest.mark.timeout(1200)  # the first one runs the world of all
OVER_MPI = [(case, how) for case in ("guest", "messages") for how in ("compiled", "python")]
CASES = [
    pytest.param("peers", "python"),  # no message goes over MPI
    *(pytest.param(case, how, marks=pytest.mark.mpi) for case, how in OVER_MPI),
]

BODY = Path(__file__).with_name("fuzz_body.py")


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", ["stream", "dgram"])
@pytest.mark.parametrize(("case", "compiled"), CASES)
def test_fuzz(request: pytest.FixtureRequest, worlds: Worlds, ranks: int, kind: str, case: str, compiled: str) -> None:
    name = case_name({"kind": kind, "case": case, "compiled": compiled})
    worlds.check(BODY, ranks, name, same_world(request, "test_fuzz"))

"""The data plane between real ranks: one body (dataplane_body.py) under mpiexec, for one, two and four of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpi.worlds import Worlds, case_name, same_world

# The first one runs the world of all.
pytestmark = [pytest.mark.mpi, pytest.mark.timeout(1200)]

BODY = Path(__file__).with_name("dataplane_body.py")
CASES = [
    "all_to_all",
    "bad_frames",
    "virtual_address",
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
def test_dataplane(
    request: pytest.FixtureRequest, worlds: Worlds, ranks: int, kind: str, case: str, compiled: str
) -> None:
    name = case_name({"kind": kind, "case": case, "compiled": compiled})
    worlds.check(BODY, ranks, name, same_world(request, "test_dataplane"))

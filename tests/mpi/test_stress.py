"""What guests do to each other under load: benchmarks/stress.py on four ranks, and what has to hold however slow.

Nothing blocks, every round trip of others comes back, memory stays bounded, and every frame that did not come was
dropped and counted where it was dropped.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STRESS = Path(__file__).parent.parent.parent / "benchmarks/stress.py"
RANKS = 4
MOST_MB = 80
TIMEOUT_S = 280

Result = dict[str, Any]


pytestmark = pytest.mark.parametrize("link", ["stream", "dgram"])


@functools.cache
def all_cases(mpiexec: tuple[str, ...], link: str) -> subprocess.CompletedProcess[str]:
    """The run of all cases, however it ended."""
    program = [sys.executable, "-W", "error", "-m", "mpi4py", str(STRESS)]
    command = [*mpiexec, "-n", str(RANKS), *program, "--link", link, "--seconds", "0.5", "--stopped", "1"]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"not done after {TIMEOUT_S} s")


def stress(mpiexec: list[str], link: str, case: str) -> Result:
    done = all_cases(tuple(mpiexec), link)
    assert done.returncode == 0, done.stdout + done.stderr
    results = map(json.loads, done.stdout.splitlines())
    result = next(one for one in results if one["case"] == case)
    assert result["pairs_reached"] == RANKS * (RANKS - 1), result
    assert max(result["peak_mb"]) < MOST_MB, result
    return result


def dropped(result: Result, reason: str, rank: int) -> int:
    return result["drops"][rank].get(reason, 0)


def assert_answered(result: Result) -> None:
    for pings in (result["quiet"], result["disturbed"]):
        assert pings["pings"] > 0 and pings["lost"] == 0, result


def assert_no_drops(result: Result, *ranks: int) -> None:
    assert all(not result["drops"][rank] for rank in ranks), result


def test_a_guest_that_stops_harms_nobody_and_comes_back(mpiexec: list[str], link: str) -> None:
    result = stress(mpiexec, link, "stopped_guest")
    assert_answered(result)
    assert_no_drops(result, 2, 3)
    sent = result["sent_while_stopped"] + result["sent_after"]
    lost = sent - result["came_of_it"] - result["came_after"]
    assert lost == dropped(result, "guest_full", 1) + dropped(result, "peer_full", 0)
    assert dropped(result, "guest_full", 1) > 0
    assert result["came_of_it"] > 0
    assert result["came_after"] > 0


def test_three_floods_to_one(mpiexec: list[str], link: str) -> None:
    result = stress(mpiexec, link, "three_to_one")
    lost = sum(dropped(result, "peer_full", rank) for rank in (1, 2, 3)) + dropped(result, "guest_full", 0)
    assert result["sent"] - result["came"] == lost
    assert set().union(*result["drops"]) <= {"peer_full", "guest_full"}


def test_a_flood_beside_round_trips(mpiexec: list[str], link: str) -> None:
    result = stress(mpiexec, link, "flood_beside_pings")
    assert_answered(result)
    assert_no_drops(result, 2, 3)
    assert result["sent"] - result["came"] == dropped(result, "peer_full", 0) + dropped(result, "guest_full", 1)


def test_a_flood_of_broadcasts(mpiexec: list[str], link: str) -> None:
    """Rank 1 passes it on to 3, and nobody else passes on anything; see `tree`."""
    result = stress(mpiexec, link, "broadcast")
    assert_answered(result)
    by_root, by_relay = dropped(result, "peer_full", 0), dropped(result, "peer_full", 1)
    lost = {rank: result["sent"] - result["came"][str(rank)] for rank in (1, 2, 3)}
    for rank in (1, 2):
        assert 0 <= lost[rank] <= by_root + dropped(result, "guest_full", rank), result
    assert 0 <= lost[3] <= by_root + by_relay + dropped(result, "guest_full", 3), result
    assert set().union(*result["drops"]) <= {"peer_full", "guest_full"}


def test_ten_thousand_destinations_in_turn(mpiexec: list[str], link: str) -> None:
    result = stress(mpiexec, link, "ten_thousand")
    assert result["sent"] - result["came"] == dropped(result, "no_such_rank", 0)
    assert result["came"] > 0
    assert_no_drops(result, 1, 2, 3)

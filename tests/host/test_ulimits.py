"""The limits of a process against what a rank and its qemu need."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import pytest

from doctor.made_up import GIB, asks, spec, told
from mvpnet.host.finding import Level
from mvpnet.host.resources import resource_findings, too_low
from mvpnet.host.ulimits import ProcessDemand, Ulimits, process_demand, ulimits
from mvpnet.spec.schema import Accel

MIB = 2**20


@pytest.mark.parametrize(
    ("asked", "ram_bytes", "space_mib", "locked_mib"),
    [
        ({"vm": {"memory": "1G", "accel": Accel.tcg}}, 16 * GIB, 1024 + 256 + 1024, 0),
        ({"vm": {"memory": "1G", "accel": Accel.tcg}}, 4 * GIB, 1024 + 256 + 512, 0),
        ({"vm": {"memory": "512", "accel": Accel.tcg}}, 16 * GIB, 512 + 256 + 1024, 0),
        (
            {"vm": {"memory": "1G", "accel": Accel.tcg}, "qemu": {"extra_args": ["-overcommit", "mem-lock=on"]}},
            16 * GIB,
            1024 + 256 + 1024,
            1024,
        ),
    ],
)
def test_demand(asked: dict[str, Any], ram_bytes: int, space_mib: int, locked_mib: int) -> None:
    found = process_demand(spec(**asked), ram_bytes)
    assert (found.address_space_bytes, found.locked_bytes) == (space_mib * MIB, locked_mib * MIB)
    assert found.open_files == 64 + 16, "the world has 16 ranks"


DEMAND = ProcessDemand(2 * GIB, Accel.tcg, 80, GIB)


@pytest.mark.parametrize(
    ("limits", "level", "seen", "todo"),
    [
        ({"address_space_bytes": GIB}, "failure", "ulimit -v allows 1 GiB of address space", "ulimit -v unlimited"),
        ({"locked_bytes": 8 * MIB}, "failure", "ulimit -l lets 8 MiB be locked, and mem-lock=on locks 1 GiB", "-l"),
        ({"open_files": 79}, "warning", "ulimit -n allows 79 open files", "ulimit -n 1024"),
        ({"file_bytes": GIB}, "warning", "ulimit -f allows files of 1 GiB", "ulimit -f unlimited"),
    ],
)
def test_limits_that_are_too_low(limits: dict[str, int], level: str, seen: str, todo: str) -> None:
    low = asks(1, ulimits=Ulimits(**limits), demand=DEMAND)
    [line] = too_low([asks(0, demand=DEMAND), low])
    assert line.check == "ulimits" and line.ranks == (1,)
    found = told(line)
    assert found[0] == level and seen in found[1] and todo in found[2], found
    assert line in resource_findings([low])


@pytest.mark.parametrize(
    "limits",
    [Ulimits(), Ulimits(address_space_bytes=2 * GIB, open_files=80, locked_bytes=GIB)],
)
def test_limits_that_suffice(limits: Ulimits) -> None:
    assert too_low([asks(demand=DEMAND, ulimits=limits)]) == []


def test_limits_of_this_process() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert ulimits().open_files == (None if soft == resource.RLIM_INFINITY else soft)
    ask = "from mvpnet.host.ulimits import ulimits; print(ulimits().address_space_bytes)"
    limited = f"ulimit -v {4 * MIB}; exec {sys.executable} -c '{ask}'"
    done = subprocess.run(["sh", "-c", limited], check=True, capture_output=True, text=True)
    assert int(done.stdout) == 4 * GIB


def test_the_level_is_a_failure_of_the_whole_job_only_where_qemu_cannot_start() -> None:
    levels = [line.level for line in too_low([asks(demand=DEMAND, ulimits=Ulimits(GIB, 10, None, GIB))])]
    assert levels == [Level.failure, Level.warning, Level.warning]

"""Memory, CPUs and scratch of a host against what its ranks ask for together, from made-up limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from doctor.made_up import GIB, asks, spec, told
from mvpnet.host.cgroups import CpuLimit, MemoryLimit
from mvpnet.host.finding import Level
from mvpnet.host.mounts import Mount
from mvpnet.host.resources import (
    Resources,
    cpus,
    memory,
    resource_findings,
    resources,
    scratch,
    virtual_cpus,
    warning_lines,
)
from mvpnet.spec.schema import Vm


def job(limit_gib: float, used_gib: float = 0, group: str = "/job_7") -> MemoryLimit:
    return MemoryLimit(group, int(limit_gib * GIB), int(used_gib * GIB))


@pytest.mark.parametrize(
    ("gib_each", "limits", "level", "seen"),
    [
        (6, {}, "ok", "the guests ask for 12 GiB, and 12 GiB of 16 GiB are available"),
        (7, {}, "warning", "the guests ask for 14 GiB, and 12 GiB of 16 GiB are available"),
        (16, {}, "warning", "the guests ask for 32 GiB"),  # guests rarely touch all of theirs
        (17, {}, "failure", "a guest is to get 17 GiB (vm.memory), and this host has 16 GiB and no swap"),
        (19, {"swap_bytes": 2 * GIB}, "failure", "has 16 GiB and 2 GiB of swap"),
        (17, {"swap_bytes": 2 * GIB}, "warning", "ask for 34 GiB"),
        (17, {"any_promise": True}, "warning", "ask for 34 GiB"),
        (3, {"promisable_bytes": 6 * GIB}, "ok", "ask for 6 GiB"),
        (4, {"promisable_bytes": 6 * GIB}, "failure", "the kernel promises 6 GiB more (vm.overcommit_memory=2)"),
        (2, {"memory": (job(4),)}, "ok", "ask for 4 GiB"),
        (2, {"memory": (job(4, 0.5),)}, "warning", "and 512 MiB of the limit of 4 GiB on /job_7 are used already"),
        (3, {"memory": (job(4),)}, "warning", "ask for 6 GiB, over the limit of 4 GiB on /job_7"),
        (5, {"memory": (job(4),)}, "failure", "is to get 5 GiB (vm.memory), over the limit of 4 GiB on /job_7"),
        (5, {"memory": (job(9, group="/a"), job(4, group="/b"))}, "failure", "over the limit of 4 GiB on /b"),
    ],
)
def test_memory(gib_each: int, limits: dict[str, Any], level: str, seen: str) -> None:
    found = told(memory([asks(rank, memory_bytes=gib_each * GIB, **limits) for rank in range(2)]))
    assert found[0] == level and seen in found[1], found
    assert bool(found[2]) is (level != "ok")


def test_ranks_in_groups_of_their_own() -> None:
    apart = [asks(rank, memory_bytes=3 * GIB, memory=(job(4, group=f"/task_{rank}"),)) for rank in range(2)]
    assert memory(apart).level is Level.ok, "each has room in its own"
    shared = [replace(one, limits=replace(one.limits, memory=(*one.limits.memory, job(5)))) for one in apart]
    line = memory(shared)
    assert line.level is Level.warning and "/job_7" in line.seen and line.ranks == (0, 1)


@pytest.mark.parametrize(
    ("each", "limits", "level", "seen"),
    [
        (4, {}, "ok", "ask for 8 CPUs, and may run on 8"),
        (5, {}, "warning", "ask for 10 CPUs, and may run on 8"),
        (2, {"cpu_time": (CpuLimit("/pod", 2.5),)}, "warning", "ask for 4 CPUs, and /pod may use 2.5"),
        (1, {"cpu_time": (CpuLimit("/pod", 2.5),)}, "ok", "ask for 2 CPUs"),
    ],
)
def test_cpus(each: int, limits: dict[str, Any], level: str, seen: str) -> None:
    found = told(cpus([asks(rank, cpus=each, **limits) for rank in range(2)]))
    assert found[0] == level and seen in found[1], found


def test_ranks_that_are_bound_to_cpus_of_their_own() -> None:
    assert told(cpus([bound_to(0, 1), bound_to(1, 1)]))[:2] == ("ok", "the guests ask for 2 CPUs, and may run on 2")
    assert told(cpus([bound_to(0, 1), bound_to(0, 1)]))[:2] == (
        "warning",
        "the guests ask for 2 CPUs, and may run on 1",
    )
    level, seen, todo = told(cpus([bound_to(0, 2), bound_to(1, 0)]))
    assert (level, seen) == ("warning", "a guest is to get 2 CPUs, and its rank is bound to 1")
    assert "--bind-to none" in todo


def bound_to(cpu: int, wanted: int) -> Resources:
    return replace(asks(cpu, cpus=wanted), limits=replace(asks().limits, cpus=frozenset([cpu])))


@pytest.mark.parametrize(
    ("fs_type", "level", "seen"),
    [
        ("ext4", "ok", "is on ext4, /scratch"),
        ("tmpfs", "ok", "takes memory"),
        ("nfs4", "warning", "is on nfs4, /scratch, which other hosts share"),
        ("fuse.sshfs", "warning", "other hosts share"),
        ("lustre", "warning", "other hosts share"),
    ],
)
def test_scratch(fs_type: str, level: str, seen: str) -> None:
    one = replace(asks(), scratch_mount=Mount("/", "/scratch", fs_type, "x", ()))
    [line] = scratch([one])
    assert told(line)[0] == level and seen in line.seen
    assert bool(line.todo) is (level == "warning")


def test_a_scratch_folder_each_and_one_of_which_nothing_is_known() -> None:
    lines = scratch([asks(0), replace(asks(1), scratch="/other", scratch_mount=None), asks(2)])
    assert [(line.ranks, line.level) for line in lines] == [((0, 2), Level.ok), ((1,), Level.ok)]
    assert "does not name" in lines[1].seen


def test_a_job_warns_a_line_a_host() -> None:
    lines = resource_findings([asks(0, "a", 14 * GIB, cpus=9), asks(1, "b", 13 * GIB), asks(2, "c")])
    assert [line.split(": ")[1:3] for line in warning_lines(lines)] == [["a", "memory"], ["b", "memory"]]
    assert "; cpus: the guests ask for 9 CPUs" in warning_lines(lines)[0]


@pytest.mark.parametrize(
    ("vm", "count"),
    [
        (Vm(cpus=3), 3),
        (Vm(smp="4,sockets=2,cores=2"), 4),
        (Vm(smp="cpus=6,maxcpus=8"), 6),
        (Vm(smp="sockets=2,cores=4,threads=2"), 16),
        (Vm(smp="maxcpus=8"), 1),
    ],
)
def test_virtual_cpus(vm: Vm, count: int) -> None:
    assert virtual_cpus(vm) == count


def test_this_host() -> None:
    found = resources(spec(3), "here")
    assert (found.rank, found.host, found.memory_bytes, found.cpus) == (3, "here", GIB, 1)
    assert found.limits.ram_bytes >= found.limits.available_bytes > 0 and found.limits.cpus
    assert found.scratch_mount

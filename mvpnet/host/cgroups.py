"""Read a process's memory and CPU limits: those of the host, of its control groups, and its CPU mask.

Control groups are those of a batch system's job or of a container, version 1 and 2 (the kernel's
Documentation/admin-guide/cgroup-v1/memory.rst, …/scheduler/sched-bwc.rst and admin-guide/cgroup-v2.rst). A limit
applies to all processes in its group together, so each is reported with the group's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvpnet.host.mounts import Mount, read_mounts

_UNLIMITED_BYTES = 2**60  # version 1 reports no limit as the largest number that it can represent
_ALWAYS, _STRICT = 1, 2  # vm.overcommit_memory: the kernel's Documentation/mm/overcommit-accounting.rst


@dataclass(frozen=True)
class MemoryLimit:
    """Memory limit of a control group, for all processes in it together."""

    group: str
    limit_bytes: int
    used_bytes: int  # without the page cache, which is reclaimed when memory is short


@dataclass(frozen=True)
class CpuLimit:
    """CPU time limit of a control group, in seconds per second, for all processes in it together."""

    group: str
    cpus: float


@dataclass(frozen=True)
class Limits:
    ram_bytes: int
    swap_bytes: int
    available_bytes: int  # MemAvailable: without swapping
    any_promise: bool  # the kernel promises more memory than it has (vm.overcommit_memory=1)
    promisable_bytes: int | None  # memory that the kernel can still promise, where it promises no more than it has (=2)
    memory: tuple[MemoryLimit, ...]  # of all groups with a limit, the innermost first
    cpu_time: tuple[CpuLimit, ...]
    cpus: frozenset[int]  # numbers of the CPUs in its affinity mask, cpusets included

    @property
    def most_bytes(self) -> int:
        return self.ram_bytes + self.swap_bytes


def limits(root: Path = Path("/")) -> Limits:
    """Read the limits of this process. /proc, and the file systems that it lists, are looked up below `root`."""
    proc = root / "proc"
    meminfo = _text(proc / "meminfo")
    groups, mounts = _text(proc / "self/cgroup"), read_mounts(_text(proc / "self/mountinfo"))
    mode = _number(proc / "sys/vm/overcommit_memory")
    promisable = _meminfo(meminfo, "CommitLimit") - _meminfo(meminfo, "Committed_AS")
    return Limits(
        ram_bytes=_meminfo(meminfo, "MemTotal"),
        swap_bytes=_meminfo(meminfo, "SwapTotal"),
        available_bytes=_meminfo(meminfo, "MemAvailable"),
        any_promise=mode == _ALWAYS,
        promisable_bytes=max(0, promisable) if mode == _STRICT else None,
        memory=tuple(_memory_limits(root, control_groups(groups, mounts, "memory"))),
        cpu_time=tuple(_cpu_limits(root, control_groups(groups, mounts, "cpu"))),
        cpus=frozenset(os.sched_getaffinity(0)),
    )


def control_groups(groups: str, mounts: Sequence[Mount], controller: str) -> list[Path]:
    """Return the folders of a process's control groups for a controller, from the innermost to the mount point.

    A group above the mount point, as in a container that sees a part of the tree, cannot be read.

    Args:
        groups: Text of /proc/PID/cgroup (cgroups(7)).
        mounts: The process's mounts.
        controller: Name of the controller.
    """
    folders: list[Path] = []
    for line in groups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not path.startswith("/") or (controllers and controller not in controllers.split(",")):
            continue
        mounted = [
            mount
            for mount in mounts
            if (mount.fs_type == "cgroup" and controllers and controller in mount.super_options)
            or (mount.fs_type == "cgroup2" and not controllers)
        ]
        if mounted:
            folders += _up_to(Path(mounted[-1].point), _inside(path, mounted[-1].root))
    return folders


def _inside(path: str, root: str) -> Path:
    """Return the group's path relative to its mount, of which `root` is mounted."""
    group = Path(path)
    if ".." in group.parts:
        return Path()
    return group.relative_to(root) if group.is_relative_to(root) else group.relative_to("/")


def _up_to(point: Path, inside: Path) -> list[Path]:
    folder = point / inside
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(point))]


def _memory_limits(root: Path, folders: Sequence[Path]) -> Iterator[MemoryLimit]:
    for folder in folders:
        here = root / folder.relative_to("/")
        for limit_file, use_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(here / limit_file)
            if limit is not None and limit < _UNLIMITED_BYTES:
                match = re.search(rf"^{cached} (\d+)$", _text(here / "memory.stat"), re.MULTILINE)
                used = (_number(here / use_file) or 0) - (int(match[1]) if match else 0)
                yield MemoryLimit(str(folder), limit, max(0, used))


def _cpu_limits(root: Path, folders: Sequence[Path]) -> Iterator[CpuLimit]:
    for folder in folders:
        here = root / folder.relative_to("/")
        quota, period = [*_text(here / "cpu.max").split(), "", ""][:2]
        if not quota:
            quota, period = _text(here / "cpu.cfs_quota_us").strip(), _text(here / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield CpuLimit(str(folder), int(quota) / int(period))


def _meminfo(text: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

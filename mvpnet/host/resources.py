"""Compare a host's memory, CPUs, scratch and ulimits with what its ranks ask for. Cheap enough for every job.

`Resources` are collected on a rank's host; the checks are pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mvpnet.host.cgroups import Limits, MemoryLimit, limits
from mvpnet.host.finding import Finding, Level
from mvpnet.host.mounts import Mount, file_system
from mvpnet.host.ulimits import ProcessDemand, Ulimits, process_demand, shortages, ulimits
from mvpnet.paths import scratch_base
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Vm
from mvpnet.spec.sizes import parse_size
from mvpnet.util.text import size_text

_TOPOLOGY = ("sockets", "dies", "clusters", "cores", "threads")  # qemu's -smp


@dataclass(frozen=True)
class Resources:
    """Resources that one rank's guest asks for, and the limits of its host."""

    rank: int
    host: str
    memory_bytes: int
    cpus: int
    scratch: str
    scratch_mount: Mount | None
    limits: Limits
    ulimits: Ulimits
    demand: ProcessDemand  # of the rank's and its qemu's process


def resources(spec: RankSpec, host: str) -> Resources:
    """Collect the resources of a rank on this host, by this process's own limits."""
    folder, here = scratch_base(spec.scratch_dir), limits()
    return Resources(
        rank=spec.rank,
        host=host,
        memory_bytes=parse_size(spec.vm.memory, "vm.memory", bare="M"),
        cpus=virtual_cpus(spec.vm),
        scratch=str(folder),
        scratch_mount=file_system(folder),
        limits=here,
        ulimits=ulimits(),
        demand=process_demand(spec, here.ram_bytes),
    )


def virtual_cpus(vm: Vm) -> int:
    """Return the guest's number of CPUs: vm.smp as qemu reads it (a number, cpus=N, or a product), else vm.cpus."""
    if vm.smp is None:
        return vm.cpus
    first, *rest = vm.smp.split(",")
    words = dict(word.partition("=")[::2] for word in [first if "=" in first else f"cpus={first}", *rest])
    if words.get("cpus", "").isdecimal():
        return int(words["cpus"])
    count = 1
    for level in _TOPOLOGY:
        count *= int(words[level]) if words.get(level, "").isdecimal() else 1
    return count


def resource_findings(ranks: Iterable[Resources]) -> list[Finding]:
    """Check memory, CPUs, ulimits and the scratch file system of each host."""
    by_host: dict[str, list[Resources]] = defaultdict(list)
    for one in ranks:
        by_host[one.host].append(one)
    return [
        finding
        for on_host in by_host.values()
        for finding in (memory(on_host), cpus(on_host), *too_low(on_host), *scratch(on_host))
    ]


def memory(ranks: Sequence[Resources]) -> Finding:
    """Check the memory of the ranks on one host. It is a failure if a guest asks for more than there can ever be.

    Guests together may ask for more than there is, as they rarely touch all of it.
    """
    here = ranks[0].limits
    asked, most = sum(one.memory_bytes for one in ranks), max(one.memory_bytes for one in ranks)
    if most > here.most_bytes and not here.any_promise:
        swap = f"{size_text(here.swap_bytes)} of swap" if here.swap_bytes else "no swap"
        has = f"this host has {size_text(here.ram_bytes)} and {swap}"
        return _about(ranks, "memory", Level.failure, f"{_one_guest(most)}, and {has}", "a smaller vm.memory")
    if here.promisable_bytes is not None and asked > here.promisable_bytes:
        left = f"the kernel promises {size_text(here.promisable_bytes)} more (vm.overcommit_memory=2)"
        todo = "a smaller vm.memory, or fewer ranks on this host"
        return _about(ranks, "memory", Level.failure, f"{_all_guests(asked)}, and {left}", todo)
    return _in_groups(ranks) or _of_host(ranks, asked)


def _in_groups(ranks: Sequence[Resources]) -> Finding | None:
    """Return the worst shortage in a control group."""
    found: list[Finding] = []
    for limit in dict.fromkeys(limit for one in ranks for limit in one.limits.memory):
        inside = [one for one in ranks if any(other.group == limit.group for other in one.limits.memory)]
        if short := _short_in(limit, [one.memory_bytes for one in inside]):
            todo = "ask the batch system for more memory, a smaller vm.memory, or fewer ranks on this host"
            found.append(_about(inside, "memory", *short, todo))
    return min(found, key=lambda finding: finding.level is not Level.failure, default=None)


def _short_in(limit: MemoryLimit, wanted: Sequence[int]) -> tuple[Level, str] | None:
    """Return what the guests in a control group lack, given the memory that each asks for."""
    asked, named = sum(wanted), f"the limit of {size_text(limit.limit_bytes)} on {limit.group}"
    if max(wanted) > limit.limit_bytes:
        return Level.failure, f"{_one_guest(max(wanted))}, over {named}"
    if asked > limit.limit_bytes:
        return Level.warning, f"{_all_guests(asked)}, over {named}: once they use it, the kernel kills one"
    if asked > limit.limit_bytes - limit.used_bytes:
        return Level.warning, f"{_all_guests(asked)}, and {size_text(limit.used_bytes)} of {named} are used already"
    return None


def _of_host(ranks: Sequence[Resources], asked: int) -> Finding:
    here = ranks[0].limits
    has = f"{size_text(here.available_bytes)} of {size_text(here.ram_bytes)} are available"
    seen = f"{_all_guests(asked)}, and {has}"
    if asked > here.available_bytes:
        todo = "a smaller vm.memory, or fewer ranks on this host; guests that use all of theirs make it swap or kill"
        return _about(ranks, "memory", Level.warning, seen, todo)
    return _about(ranks, "memory", Level.ok, seen)


def _one_guest(size_bytes: int) -> str:
    return f"a guest is to get {size_text(size_bytes)} (vm.memory)"


def _all_guests(size_bytes: int) -> str:
    return f"the guests ask for {size_text(size_bytes)}"


def cpus(ranks: Sequence[Resources]) -> Finding:
    """Check the CPUs of the ranks on one host. More virtual CPUs than real ones are slow, but work."""
    asked = sum(one.cpus for one in ranks)
    allowed = len(frozenset[int]().union(*(one.limits.cpus for one in ranks)))
    seen = f"the guests ask for {_cpus(asked)}, and may run on {allowed}"
    if asked > allowed:
        todo = "fewer vm.cpus, fewer ranks on this host, or more CPUs from the batch system or mpirun's binding"
        return _about(ranks, "cpus", Level.warning, seen, todo)
    if bound := [one for one in ranks if one.cpus > len(one.limits.cpus)]:
        seen = f"a guest is to get {_cpus(bound[0].cpus)}, and its rank is bound to {len(bound[0].limits.cpus)}"
        return _about(bound, "cpus", Level.warning, seen, "mpirun --bind-to none, or srun --cpu-bind=none")
    for limit in dict.fromkeys(limit for one in ranks for limit in one.limits.cpu_time):
        inside = [one for one in ranks if limit in one.limits.cpu_time]
        if (wanted := sum(one.cpus for one in inside)) > limit.cpus:
            seen = f"the guests ask for {_cpus(wanted)}, and {limit.group} may use {limit.cpus:g}"
            return _about(inside, "cpus", Level.warning, seen, "fewer vm.cpus, or a container with more CPU time")
    return _about(ranks, "cpus", Level.ok, seen)


def too_low(ranks: Sequence[Resources]) -> list[Finding]:
    """Check the ulimits of one host's ranks; a line for each that is too low."""
    found: dict[tuple[Level, str, str], list[Resources]] = defaultdict(list)
    for one in ranks:
        for shortage in shortages(one.demand, one.ulimits):
            found[shortage].append(one)
    return [_about(of, "ulimits", *shortage) for shortage, of in found.items()]


def scratch(ranks: Sequence[Resources]) -> list[Finding]:
    """Check the file system of each scratch folder of one host."""
    found: dict[str, list[Resources]] = defaultdict(list)
    for one in ranks:
        found[one.scratch].append(one)
    return [_scratch(folder, of_folder) for folder, of_folder in found.items()]


def _scratch(folder: str, ranks: Sequence[Resources]) -> Finding:
    mount = ranks[0].scratch_mount
    if mount is None:
        return _about(ranks, "scratch", Level.ok, f"{folder}, on a file system that the kernel does not name")
    where = f"{folder} is on {mount.fs_type}, {mount.point}"
    if mount.is_shared:
        todo = "a local disk is faster, and its locks and sockets are sure to work: set job.scratch_dir or TMPDIR"
        return _about(ranks, "scratch", Level.warning, f"{where}, which other hosts share", todo)
    more = "; what guests write takes memory" if mount.is_in_memory else ""
    return _about(ranks, "scratch", Level.ok, where + more)


def warning_lines(findings: Iterable[Finding]) -> list[str]:
    """Return the warnings, one line per host."""
    of_host: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        if finding.level is Level.warning:
            of_host[finding.host].append(f"{finding.check}: {finding.seen}")
    return [f"warning: {host}: {'; '.join(seen)}; see mvpnet doctor" for host, seen in of_host.items()]


def _about(ranks: Sequence[Resources], check: str, level: Level, seen: str, todo: str | None = None) -> Finding:
    return Finding(ranks[0].host, tuple(one.rank for one in ranks), check, level, seen, todo)


def _cpus(count: int) -> str:
    return f"{count} CPU{'' if count == 1 else 's'}"

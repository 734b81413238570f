"""Judges the facts: a check a function, pure, from facts and spec to a line of the table.

Those about a host as a whole take all its ranks. Memory, CPUs and scratch's file system are in `host.resources`, which
jobs look at too.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from mvpnet.doctor.facts import Demand, Facts, ImageState, Refusal
from mvpnet.errors import HostError
from mvpnet.guest.drives import firmware_warnings
from mvpnet.guest.requirements import check_socket_path
from mvpnet.host.finding import Finding, Level, merged
from mvpnet.host.kvm import KvmDevice
from mvpnet.host.resources import resource_findings
from mvpnet.mpi.launcher import SAME_MPI
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Accel, WaitFor
from mvpnet.spec.user_network import GUESTS, parse_user_network
from mvpnet.util.text import size_text

OLDEST_QEMU = (7, 2)  # the first with -netdev stream and dgram
MOST_SKEW_S = 1.0  # more makes the times in logs of several hosts hard to compare

_KVM_ABSENT = (
    "switch virtualization on in the firmware and load kvm_intel or kvm_amd; in a virtual machine, ask for nested "
    "virtualization"
)


@dataclass(frozen=True)
class Skew:
    """How far a host's clock is ahead of that of rank 0's host."""

    ahead_s: float
    uncertain_s: float  # by at most so much, either way


@dataclass(frozen=True)
class RankView:
    """A rank: what it is to do, and what was found where it is."""

    spec: RankSpec
    facts: Facts
    version: str  # of mvpnet
    skew: Skew | None = None  # on the first rank of each host but rank 0's
    runs_ssh: bool = False  # whether the job's app goes into guests from here

    @property
    def rank(self) -> int:
        return self.spec.rank

    def finds(self, check: str, level: Level, seen: str, todo: str | None = None) -> Finding:
        return Finding(self.facts.host, (self.rank,), check, level, seen, todo)

    def fails(self, check: str, refused: Refusal) -> Finding:
        """What a job would be refused for. Messages begin with the key that they are about."""
        key, colon, _ = refused.message.partition(": ")
        todo = refused.hint or (f"change {key}, or the host" if colon and " " not in key else None)
        return self.finds(check, Level.failure, refused.message, todo)


def findings(views: Sequence[RankView]) -> list[Finding]:
    """All lines, host by host."""
    hosts: dict[str, list[RankView]] = defaultdict(list)
    for view in views:
        hosts[view.facts.host].append(view)
    return [line for here in hosts.values() for line in merged(_of_host(here, views[0], len(hosts) > 1))]


def _of_host(here: Sequence[RankView], first: RankView, several_hosts: bool) -> Iterator[Finding]:
    yield from (version(view.facts.host, view.rank, view.version, first.version) for view in here)
    yield from (mpi(view, first) for view in here)
    if several_hosts:
        yield clock(here[0], first)
    for look in (qemu, netdev, kvm):
        yield from (look(view) for view in here)
    yield from (line for view in here for line in firmware(view))
    yield from (line for view in here for line in networks(view))
    yield from resource_findings(view.facts.resources for view in here)
    yield from scratch(here)
    yield from space(here)
    yield sockets(here)
    yield from ssh_ports(here)
    yield from (image(view) for view in here)
    yield from (tools(view) for view in here)
    yield from (finding for view in here for finding in settings(view))


# -- the launch --------------------------------------------------------------------------------------------------------


def version(host: str, rank: int, own: str, first: str) -> Finding:
    """The same mvpnet as rank 0's."""
    if own == first:
        return Finding(host, (rank,), "mvpnet", Level.ok, own)
    todo = "install the same version on all hosts, or in a folder that they share"
    return Finding(host, (rank,), "mvpnet", Level.failure, f"{own}, and rank 0 has {first}", todo)


def mpi(view: RankView, first: RankView) -> Finding:
    """A library, the launcher's own, and the same as rank 0's."""
    facts = view.facts.mpi
    if facts.refused:
        return view.fails("mpi", Refusal(*facts.refused))
    loaded = f"{facts.library} ({facts.path or 'path not known'})"
    if facts.launched_size is not None and facts.launched_size != facts.world_size:
        seen = f"the launcher started {facts.launched_size} ranks, and {loaded} knows of {facts.world_size}"
        return view.finds("mpi", Level.failure, seen, SAME_MPI)
    if facts.library != first.facts.mpi.library:
        seen = f"{loaded}, and rank 0 has {first.facts.mpi.library}"
        return view.finds("mpi", Level.failure, seen, "load the same MPI module on all hosts")
    launched = f"started by {facts.launcher}" if facts.launcher else "started without mpirun"
    seen = f"{loaded}, mpi4py {facts.mpi4py}, thread level {facts.thread_level}; {launched}"
    return view.finds("mpi", Level.ok, seen)


def clock(view: RankView, first: RankView) -> Finding:
    """Of a host, against that of rank 0's."""
    if view.skew is None:
        return view.finds("clock", Level.ok, "what the other hosts' are compared with")
    ahead_ms, uncertain_ms = view.skew.ahead_s * 1000, view.skew.uncertain_s * 1000
    side = "ahead of" if ahead_ms >= 0 else "behind"
    seen = f"{abs(ahead_ms):.1f} ms {side} {first.facts.host} (± {uncertain_ms:.1f} ms)"
    if abs(view.skew.ahead_s) - view.skew.uncertain_s > MOST_SKEW_S:
        todo = "have both hosts set by NTP (chronyc tracking); times in the logs do not match until then"
        return view.finds("clock", Level.warning, seen, todo)
    return view.finds("clock", Level.ok, seen)


# -- the machine -------------------------------------------------------------------------------------------------------


def qemu(view: RankView) -> Finding:
    """There, a qemu, and not older than what mvpnet was made for."""
    facts = view.facts.qemu
    if facts.path is None and facts.refused:
        return view.fails("qemu", facts.refused)
    if facts.version is None:
        if facts.refused:
            return view.fails("qemu", facts.refused)
        todo = "set qemu.binary to a qemu-system-…, unless this is a program in qemu's place"
        return view.finds("qemu", Level.warning, f"{facts.path} tells no version of qemu", todo)
    shown = f"{facts.path}, {_dotted(facts.version)}"
    if facts.version < OLDEST_QEMU:
        todo = f"qemu {_dotted(OLDEST_QEMU)} or later: set qemu.binary, or load the module of a newer one"
        return view.finds("qemu", Level.failure if facts.refused else Level.warning, f"{shown}, is old", todo)
    return view.finds("qemu", Level.ok, shown)


def netdev(view: RankView) -> Finding:
    """qemu has the network that net.kind asks for."""
    facts, kind = view.facts.qemu, view.spec.net.kind.name
    if not facts.netdevs:
        why = "no qemu to ask" if facts.refused else "qemu gives no list"
        return view.finds("netdev", Level.failure if facts.refused else Level.warning, why, "see the line about qemu")
    if facts.refused:
        return view.fails("netdev", facts.refused)
    return view.finds("netdev", Level.ok, f"{kind} (net.kind)")


def kvm(view: RankView) -> Finding:
    """KVM where it is asked for or could be had, and what keeps it."""
    accel = view.facts.accel
    if isinstance(accel, Refusal):
        return view.finds("kvm", Level.failure, accel.message, _kvm_todo(view, accel.message))
    chosen, why = accel
    if chosen is Accel.kvm and view.facts.lacks_virtualization:
        todo = "leave vm.accel at auto: guests that hang as they boot are what usually comes of it"
        return view.finds("kvm", Level.warning, f"KVM: {why}", todo)
    if chosen is Accel.kvm or view.spec.vm.accel is Accel.tcg:
        return view.finds("kvm", Level.ok, f"{chosen.name.upper()}: {why}")
    return view.finds("kvm", Level.warning, f"guests are emulated (TCG), which is slow: {why}", _kvm_todo(view, why))


def _kvm_todo(view: RankView, why: str) -> str:
    device = view.facts.kvm
    if device.trouble and device.trouble in why:
        return f"{_device_todo(device)}; or vm.accel=tcg"
    if view.facts.lacks_virtualization:
        return (
            "ask for nested virtualization, or take another host; or vm.accel=tcg, or vm.accel=kvm to try all the same"
        )
    return "take a host of the machine's architecture; or vm.accel=tcg"


def _device_todo(device: KvmDevice) -> str:
    if device.error == errno.EPERM:
        return "give the container /dev/kvm (--device /dev/kvm), or ask the administrator of the batch system"
    if device.error == errno.EACCES:
        if device.in_group or device.mode[4:6] != "rw":
            return f"ask the administrator to let its group open /dev/kvm (it is {device.mode})"
        return f"ask the administrator to put you into the group {device.group}, and log in again"
    return _KVM_ABSENT


def firmware(view: RankView) -> Iterator[Finding]:
    """The UEFI firmware of a guest that has one."""
    found = view.facts.firmware
    if isinstance(found, Refusal):
        yield view.fails("firmware", found)
    elif found:
        for warning in firmware_warnings(found):
            yield view.finds("firmware", Level.warning, warning, "vm.firmware=auto, or a file with one beside it")
        shown = ", variables from ".join(str(plan.source) for plan in found)
        yield view.finds("firmware", Level.ok, f"UEFI: {shown}")


def networks(view: RankView) -> Iterator[Finding]:
    """The host's networks that guests cannot reach, as their own have the same addresses."""
    user = parse_user_network(view.spec.net.user_network)
    for network in view.facts.overlaps:
        if ip_network(network).overlaps(user.network):
            seen = f"this host is in {network}, and guests take it for their user network, {user.network}"
            yield view.finds("networks", Level.warning, seen, "another net.user_network, as 172.30.0.0/24")
        else:
            seen = f"this host is in {network}, and guests take it for the network between them, {GUESTS}"
            todo = (
                f"the host itself is {user.host} in a guest; for others there, in the guest: "
                f"ip route add {network} via {user.host}"
            )
            yield view.finds("networks", Level.warning, seen, todo)


# -- the host ----------------------------------------------------------------------------------------------------------


def scratch(here: Sequence[RankView]) -> Iterator[Finding]:
    """A folder of one's own can be made there, locked, and removed; and what was found of killed jobs."""
    for view in here:
        if view.facts.scratch_refused:
            yield view.fails("scratch", view.facts.scratch_refused)
        for line in view.facts.removed:
            yield view.finds("scratch", Level.ok, line)


def space(here: Sequence[RankView]) -> Iterator[Finding]:
    """A line for each disk that the host's ranks write overlays and copies to."""
    disks: dict[int, list[tuple[RankView, Demand]]] = defaultdict(list)
    for view in here:
        for demand in view.facts.demands:
            disks[demand.device].append((view, demand))
    for demands in disks.values():
        yield _space([view for view, _ in demands], [demand for _, demand in demands])


def _space(views: Sequence[RankView], demands: Sequence[Demand]) -> Finding:
    folder, free = demands[0].folder, min(demand.free_bytes for demand in demands)
    sure, most = (sum(getattr(demand, kind) for demand in demands) for kind in ("sure_bytes", "most_bytes"))
    ranks = tuple(sorted({view.rank for view in views}))
    host = views[0].facts.host
    todo = "free some, or set job.scratch_dir or image.copy_dir to a bigger disk"
    if sure > free:
        seen = f"copies of images take {size_text(sure)} in {folder}, and {size_text(free)} are free"
        return Finding(host, ranks, "disk", Level.failure, seen, todo)
    seen = f"the guests may write {size_text(most)} in {folder}, and {size_text(free)} are free"
    if most > free:
        return Finding(host, ranks, "disk", Level.warning, seen, todo)
    return Finding(host, ranks, "disk", Level.ok, seen)


def sockets(here: Sequence[RankView]) -> Finding:
    """The longest path of a unix socket that any rank of the host makes."""
    view, key, path = max(
        ((view, key, path) for view in here for key, path in view.facts.sockets),
        key=lambda one: len(os.fsencode(one[2])),
    )
    try:
        check_socket_path(Path(path), key)
    except HostError as error:
        return view.fails("sockets", Refusal(error.message, error.hint))
    ranks = tuple(one.rank for one in here)
    return Finding(view.facts.host, ranks, "sockets", Level.ok, f"the longest path has {len(os.fsencode(path))} bytes")


def ssh_ports(here: Sequence[RankView]) -> Iterator[Finding]:
    """A port on 127.0.0.1 for each rank, the one that its number stands for or another."""
    as_wanted = [view for view in here if view.facts.port.got == view.facts.port.wanted]
    if as_wanted:
        ports = [view.facts.port.wanted for view in as_wanted]
        shown = str(ports[0]) if len(ports) == 1 else f"{min(ports)} to {max(ports)}"
        ranks = tuple(view.rank for view in as_wanted)
        yield Finding(here[0].facts.host, ranks, "ssh ports", Level.ok, f"{shown} free")
    for view in here:
        port = view.facts.port
        if port.refused:
            yield view.fails("ssh ports", port.refused)
        elif port.got != port.wanted:
            seen = f"{port.wanted} is taken; the job would take {port.got}"
            yield view.finds(
                "ssh ports", Level.warning, seen, "ssh_config in the run folder names it; or set net.ssh_port"
            )


# -- what the job names ------------------------------------------------------------------------------------------------


def image(view: RankView) -> Finding:
    """There, or what has to happen first."""
    facts = view.facts.image
    if facts.refused:
        return view.fails("image", facts.refused)
    if facts.state is ImageState.to_build:
        todo = f"the first job builds it, from packages and for minutes; mvpnet image fetch {facts.what} does so before"
        return view.finds("image", Level.warning, f"{facts.what} is not built here yet", todo)
    if facts.state is ImageState.to_fetch:
        todo = "the first job fetches it; mvpnet image fetch, with the same arguments, does so before"
        return view.finds("image", Level.warning, f"{facts.what} is not in the store of this host yet", todo)
    return view.finds("image", Level.ok, facts.what)


def tools(view: RankView) -> Finding:
    """The programs beside qemu that this rank needs."""
    where = dict(view.facts.programs)
    if view.rank == 0 and where["ssh-keygen"] is None:
        return view.finds("tools", Level.failure, "there is no ssh-keygen on PATH", "install OpenSSH's client")
    if where.get("qemu-img", "not needed") is None:
        todo = "install qemu-utils or qemu-img; or avoid overlays: image.use=snapshot"
        return view.finds("tools", Level.failure, "there is no qemu-img beside qemu.binary or on PATH", todo)
    if where["ssh"] is None and (view.runs_ssh or view.spec.boot.wait_for is WaitFor.cloud_init):
        what = "app=guest runs the app by ssh" if view.runs_ssh else "boot.wait_for=cloud_init asks the guest by ssh"
        return view.finds("tools", Level.failure, f"{what}, and there is none on PATH", "install OpenSSH's client")
    if where["ssh"] is None and view.rank == 0:
        return view.finds("tools", Level.warning, "there is no ssh on PATH to log in with", "install OpenSSH's client")
    return view.finds("tools", Level.ok, ", ".join(sorted(name for name, path in view.facts.programs if path)))


def settings(view: RankView) -> Iterator[Finding]:
    """What else a job would refuse on this host."""
    yield from (view.fails("settings", refused) for refused in view.facts.refused)


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))

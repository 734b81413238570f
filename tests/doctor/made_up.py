"""Facts of hosts that are not there, for checks that only look at facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mvpnet.doctor.checks import RankView
from mvpnet.doctor.facts import Facts, ImageFacts, ImageState, Port, QemuFacts
from mvpnet.doctor.mpi import MpiFacts
from mvpnet.host.cgroups import Limits
from mvpnet.host.finding import Finding
from mvpnet.host.kvm import KvmDevice
from mvpnet.host.mounts import Mount
from mvpnet.host.resources import Resources
from mvpnet.host.ulimits import ProcessDemand, Ulimits
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.plain import changed
from mvpnet.spec.schema import Accel, Config

GIB = 2**30
LIMITS = Limits(16 * GIB, 0, 12 * GIB, False, None, (), (), frozenset(range(8)))
NO_ULIMITS, NO_DEMAND = Ulimits(), ProcessDemand()
MPI = MpiFacts("Open MPI v4.1.4", "/lib/libmpi.so.40", "4.1.2", "single", 4, "Open MPI's mpirun", 4)
QEMU = QemuFacts("/bin/qemu-system-x86_64", (7, 2, 22), frozenset(["stream", "dgram", "user"]))


def spec(rank: int = 0, **sections: Any) -> RankSpec:
    """`vm={"cpus": 4}` changes a section of the default configuration."""
    return JobSpec(16, Path("/run"), changed(Config(), {"job": {"name": "j"}, **sections})).for_rank(rank)


def asks(
    rank: int = 0,
    host: str = "a",
    memory_bytes: int = GIB,
    cpus: int = 1,
    ulimits: Ulimits = NO_ULIMITS,
    demand: ProcessDemand = NO_DEMAND,
    **limits: Any,
) -> Resources:
    mount = Mount("/", "/tmp", "ext4", "/dev/sda1", ("rw",))
    host_limits = replace(LIMITS, **limits)
    return Resources(rank, host, memory_bytes, cpus, "/tmp/mvpnet-0", mount, host_limits, ulimits, demand)


def facts(rank: int = 0, host: str = "a", **changes: Any) -> Facts:
    """Of a host on which all is well, but for the changes."""
    well = Facts(
        host=host,
        resources=asks(rank, host),
        qemu=QEMU,
        kvm=KvmDevice(),
        accel=(Accel.kvm, "/dev/kvm opens"),
        lacks_virtualization=False,
        scratch_refused=None,
        removed=(),
        sockets=(("job.scratch_dir", "/tmp/mvpnet-0/j.0.9999999/console.sock"),),
        port=Port(2200 + rank, 2200 + rank),
        image=ImageFacts(ImageState.here, "image=tiny in /cache"),
        demands=(),
        programs=(("ssh", "/bin/ssh"), ("ssh-keygen", "/bin/ssh-keygen")),
        refused=(),
        mpi=MPI,
        firmware=(),
        overlaps=(),
    )
    return replace(well, **changes)


def view(rank: int = 0, host: str = "a", asked: dict[str, Any] | None = None, **changes: Any) -> RankView:
    return RankView(spec(rank, **(asked or {})), facts(rank, host, **changes), "1.0")


def told(finding: Finding) -> tuple[str, str, str]:
    return finding.level.value, finding.seen, finding.todo or ""

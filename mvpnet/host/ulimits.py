"""Compare the limits of a process (getrlimit(2), `ulimit`) with what a rank and its qemu need.

qemu inherits the limits of its rank, which has those of the shell or of the batch system.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass

from mvpnet.errors import HostError
from mvpnet.host import kvm
from mvpnet.host.finding import Level
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Accel
from mvpnet.spec.sizes import parse_size
from mvpnet.util.text import size_text

_QEMU_BYTES = 256 * 2**20  # of address space besides the guest's memory; measured with qemu 7.2: 260 MiB
_TCG_MOST_BYTES = 2**30  # buffer for translated code, at most an eighth of RAM (accel/tcg/translate-all.c of qemu 7.2)
_RANK_FILES = 64  # measured: 45 on rank 0 of two, with MPICH, and more while programs start
_MEM_LOCK = "mem-lock=on"  # of qemu's -overcommit


@dataclass(frozen=True)
class Ulimits:
    """The limits in force; None: unlimited."""

    address_space_bytes: int | None = None
    open_files: int | None = None
    locked_bytes: int | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class ProcessDemand:
    """What a rank and its qemu need of a process's resources."""

    address_space_bytes: int = 0
    accel: Accel = Accel.kvm
    open_files: int = 0
    locked_bytes: int = 0


def ulimits() -> Ulimits:
    """Return this process's limits."""

    def soft(kind: int) -> int | None:
        limit, _ = resource.getrlimit(kind)
        return None if limit == resource.RLIM_INFINITY else limit

    return Ulimits(
        address_space_bytes=soft(resource.RLIMIT_AS),
        open_files=soft(resource.RLIMIT_NOFILE),
        locked_bytes=None if os.geteuid() == 0 else soft(resource.RLIMIT_MEMLOCK),  # root may lock all (mlock(2))
        file_bytes=soft(resource.RLIMIT_FSIZE),
    )


def process_demand(spec: RankSpec, ram_bytes: int) -> ProcessDemand:
    """Return what the rank and its qemu need on a host with this much memory."""
    memory_bytes = parse_size(spec.vm.memory, "vm.memory", bare="M")
    try:
        accel, _ = kvm.resolve_accel(spec.vm.accel, spec.qemu.binary)
    except HostError:  # refused by a check of its own
        accel = Accel.kvm
    buffer_bytes = min(_TCG_MOST_BYTES, ram_bytes // 8) if accel is Accel.tcg else 0
    return ProcessDemand(
        address_space_bytes=memory_bytes + _QEMU_BYTES + buffer_bytes,
        accel=accel,
        open_files=_RANK_FILES + spec.world_size,  # MPI may connect to every other rank
        locked_bytes=memory_bytes if any(_MEM_LOCK in argument for argument in spec.qemu.extra_args) else 0,
    )


def shortages(demand: ProcessDemand, limits: Ulimits) -> Iterator[tuple[Level, str, str]]:
    """Yield each limit that is too low: how bad that is, what was seen, and what to do."""
    space, locked, files = limits.address_space_bytes, limits.locked_bytes, limits.open_files
    if space is not None and space < demand.address_space_bytes:
        needed = (
            f"qemu with this vm.memory takes {size_text(demand.address_space_bytes)} under {demand.accel.name.upper()}"
        )
        todo = "ulimit -v unlimited before mpirun, more memory from a batch system that sets it, or a smaller vm.memory"
        yield Level.failure, f"ulimit -v allows {size_text(space)} of address space, and {needed}", todo
    if locked is not None and locked < demand.locked_bytes:
        seen = f"ulimit -l lets {size_text(locked)} be locked, and {_MEM_LOCK} locks {size_text(demand.locked_bytes)}"
        yield Level.failure, seen, f"ulimit -l unlimited before mpirun, or no {_MEM_LOCK} in qemu.extra_args"
    if files is not None and files < demand.open_files:
        seen = f"ulimit -n allows {files} open files, and a rank of this world may need {demand.open_files}"
        yield Level.warning, seen, f"ulimit -n {max(1024, demand.open_files)} before mpirun"
    if limits.file_bytes is not None:
        seen = f"ulimit -f allows files of {size_text(limits.file_bytes)}: overlays, copies, logs and saves end there"
        yield Level.warning, seen, "ulimit -f unlimited before mpirun"

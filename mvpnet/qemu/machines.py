"""Choose machine and CPU for a qemu whose own defaults do not fit a guest of ours. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from mvpnet.spec.schema import Accel

# Arm has no default machine; RISC-V's has no PCI, and so no virtio-net-pci. With gic-version=max, KVM takes the
# interrupt controller that the host has, and TCG one for more than 8 CPUs (qemu's docs/system/arm/virt.rst).
_MACHINES: Final = {"aarch64": "virt,gic-version=max", "arm": "virt", "riscv64": "virt", "riscv32": "virt"}
# With ERMS or FSRM, Linux copies memory by `rep movsb`, which TCG runs byte by byte: docs/performance.md.
FAST_UNDER_TCG: Final = "max,-erms,-fsrm"
_OPTIONS: Final = ("-machine", "--machine", "-M", "--M")
_CPUS_UNDER_TCG: Final = {
    "x86_64": FAST_UNDER_TCG,
    "i386": FAST_UNDER_TCG,
    "aarch64": "max",
    "arm": "max",
    "s390x": "max",
    "riscv64": "rv64",  # qemu 7.2 has no max for RISC-V
    "riscv32": "rv32",
}


def machine_option(wanted: str | None, architecture: str, extra_args: Sequence[str] = ()) -> str | None:
    """Return the value of -machine: what is wanted, else what fits the architecture; None for qemu's own default.

    There is none of ours beside one in `extra_args`, as qemu would add up the properties of both.
    """
    if wanted is not None or given_machine(extra_args) is not None:
        return wanted
    return _MACHINES.get(architecture)


def given_machine(extra_args: Sequence[str]) -> str | None:
    """Return the value of the last -machine or -M among qemu's arguments."""
    return next((value for option, value in reversed([*pairwise(extra_args)]) if option in _OPTIONS), None)


def cpu_option(wanted: str, architecture: str, accel: Accel) -> str | None:
    """Return the value of -cpu for `vm.cpu_model`; None for qemu's own default."""
    if wanted != "auto":
        return wanted
    return "host" if accel is Accel.kvm else _CPUS_UNDER_TCG.get(architecture)

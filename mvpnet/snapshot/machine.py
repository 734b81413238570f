"""Comparison of machines as guests see them: saved memory fits only the same machine and the same version of qemu."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from mvpnet.guest.drives import DrivePlan
from mvpnet.spec import option_string
from mvpnet.spec.schema import ImageUse

_CPUINFO = Path("/proc/cpuinfo")
_SEEN = ("-machine", "-M", "-accel", "-cpu", "-m", "-smp", "-vga", "-device", "-global")
_UNSEEN_OF_DRIVES = ("file", "format", "snapshot")  # location and storage, which the guest does not see
_DISKS_OF_THE_USER = ("drive", "blockdev", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock", "pflash")


def machine_of(argv: Sequence[str]) -> list[str]:
    """Return the options of a qemu command line that define the machine that the guest sees. Pure."""
    seen = []
    for option, value in pairwise(argv):
        if option in _SEEN:
            seen.append(f"{option} {value}")
        elif option == "-drive":
            seen.append(f"-drive {option_string.joined(_properties(value))}")
        elif option == "-fw_cfg":
            seen.append(f"-fw_cfg {option_string.split(value)[0]}")
    return seen


def option_value(machine: Sequence[str], name: str) -> str | None:
    """Return the value of an option in a result of `machine_of`; None if the option is missing."""
    values = (value for option, _, value in (entry.partition(" ") for entry in machine) if option == name)
    return next(values, None)


def _properties(drive: str) -> Iterator[str]:
    for part in option_string.split(drive):
        name = part.partition("=")[0]
        if name.partition(".")[0] not in _UNSEEN_OF_DRIVES:
            yield part


def difference(saved: Sequence[str], now: Sequence[str]) -> str | None:
    """Describe how two machines differ; None if they are the same."""
    lines = difflib.ndiff(list(saved), list(now))
    told = {"-": "saved with", "+": "here there is"}
    found = [f"{told[line[0]]} {line[2:]}" for line in lines if line[0] in told]
    return "; ".join(found) or None


def missing_flags(saved: Sequence[str], here: Sequence[str]) -> list[str]:
    """Return CPU features that the saved guest may use and this host's CPU lacks."""
    return sorted(set(saved) - set(here))


def this_cpu_flags() -> list[str]:
    return cpu_flags(_CPUINFO.read_text(errors="replace"))


def cpu_flags(cpuinfo: str) -> list[str]:
    """Return the features of the first CPU in a /proc/cpuinfo: `flags` on x86, `Features` on Arm."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return sorted(value.split())
    return []


def saved_disks(drives: Sequence[DrivePlan]) -> dict[int, DrivePlan]:
    """Return the disks that go into a save, by number of the drive: overlays and copies that the guest writes."""
    return {
        number: plan
        for number, plan in enumerate(drives)
        if plan.use in (ImageUse.overlay, ImageUse.copy) and plan.writes
    }


def why_not(drives: Sequence[DrivePlan], seeds: Sequence[str], extra_args: Sequence[str]) -> str | None:
    """Return why guests with these drives cannot be saved; None if they can.

    Args:
        drives: The drives.
        seeds: Keys of drives with seeds: no guest writes them, although it could.
        extra_args: The user's own arguments to qemu.
    """
    for plan in drives:
        if plan.key in seeds:
            continue
        if plan.use is None:
            return f"{plan.key}: is passed to qemu as it is, and mvpnet does not know what the guest writes there"
        if plan.use is ImageUse.snapshot:
            return f"{plan.key}: what the guest writes is in no file (image.use=snapshot); use overlay or copy"
        if plan.use is ImageUse.direct and plan.writes:
            return (
                f"{plan.key}: the guest writes {plan.source} itself (image.use=direct), which goes on changing after a "
                "save; use overlay or copy"
            )
    words = (argument.lstrip("-") for argument in extra_args if argument.startswith("-"))
    if word := next((word for word in words if word in _DISKS_OF_THE_USER), None):
        return f"qemu.extra_args: mvpnet does not know what the guest writes through -{word}; use image.drives"
    return None

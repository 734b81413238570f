"""One rank of a job that is resumed: its part of the save, in place of a boot. The save is only read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mvpnet.errors import HostError
from mvpnet.guest.drives import DrivePlan
from mvpnet.qemu import binary
from mvpnet.snapshot.layout import RankFolder, RankPart, SaveFolder, read_part
from mvpnet.snapshot.machine import difference, missing_flags, option_value, saved_disks, this_cpu_flags
from mvpnet.spec import option_string
from mvpnet.spec.drive_text import parse_drive
from mvpnet.spec.schema import Accel, ImageUse


@dataclass(frozen=True)
class Resume:
    """Which save a job goes on from; the same on all ranks."""

    folder: Path
    id: str
    stands_on: tuple[tuple[str, str], ...] = ()  # folder and id of the saves that this one was made on


@dataclass(frozen=True)
class Resumed:
    """One rank's part, which is there and whole."""

    folder: RankFolder
    part: RankPart

    def check_host(self, qemu_binary: str, accel: Accel) -> None:
        """Raises HostError where qemu, its accelerator or the CPU are not what the saved memory fits."""
        saved, here = self.part.qemu_version, binary.qemu_version(qemu_binary)
        if here != tuple(map(int, saved.split("."))):
            found = ".".join(map(str, here)) if here else "an unknown version"
            raise HostError(
                f"qemu.binary: {qemu_binary} is {found}, and the save is of qemu {saved}",
                hint="saved memory fits the same version of qemu alone",
            )
        if accel.name != self.part.accel:
            raise HostError(
                f"the guests were saved under {self.part.accel.upper()}, and this host runs them under "
                f"{accel.name.upper()}",
                hint="memory that was saved under one does not go on under the other",
            )
        if accel is Accel.kvm and (missing := missing_flags(self.part.cpu_flags, this_cpu_flags())):
            raise HostError(f"this host's CPU lacks what that of the save has: {' '.join(missing)}")

    @property
    def cpu_model(self) -> str | None:
        """What the guest was saved with as its CPU: what vm.cpu_model=auto stands for may change."""
        return option_value(self.part.machine, "-cpu")

    def check_machine(self, machine: Sequence[str]) -> None:
        """Raises HostError where mvpnet would make another machine than the one that was saved."""
        if found := difference(self.part.machine, machine):
            raise HostError(
                f"{self.folder.root}: fits another machine: {found}",
                hint="another version of mvpnet saved it? save.json says which; resume with that one",
            )

    def copy_seed(self, target: Path) -> None:
        """Raises HostError."""
        try:
            shutil.copyfile(self.folder.seed, target)
        except OSError as error:
            raise HostError(f"{error.filename}: {error.strerror}") from error

    def drives(self, planned: Sequence[DrivePlan], scratch: Path) -> tuple[DrivePlan, ...]:
        """The drives with new overlays on the saved disks, in place of those that the guest wrote."""
        disks = saved_disks(planned)
        return tuple(
            self._overlay(number, plan, scratch) if number in disks else plan for number, plan in enumerate(planned)
        )

    def _overlay(self, number: int, plan: DrivePlan, scratch: Path) -> DrivePlan:
        target = scratch / f"resumed{number}.qcow2"
        properties = {**parse_drive(plan.option, plan.key).properties, "file": str(target), "format": "qcow2"}
        return replace(
            plan,
            option=option_string.joined(f"{name}={value}" for name, value in properties.items()),
            use=ImageUse.overlay,
            source=self.folder.disk(number),
            source_format=self.part.disks[str(number)],
            target=target,
            format="qcow2",
            remove=(target,),
            size=None,
        )

    def open_memory(self) -> int:
        """A descriptor for qemu, which the caller closes. Raises HostError."""
        try:
            return os.open(self.folder.memory, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"{self.folder.memory}: {error.strerror}") from error


def resumed(resume: Resume | None, rank: int) -> Resumed | None:
    """This rank's part; None for a job that boots. Raises HostError or ConfigError."""
    if resume is None:
        return None
    for path, save_id in resume.stands_on:
        read_part(SaveFolder(Path(path)).rank(rank), save_id)
    folder = SaveFolder(resume.folder).rank(rank)
    return Resumed(folder, read_part(folder, resume.id))

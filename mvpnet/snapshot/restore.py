"""Restoring of one rank's guest from a save, in place of a boot. The save is only read."""

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
    """The save that a job resumes; the same on all ranks."""

    folder: Path
    id: str
    stands_on: tuple[tuple[str, str], ...] = ()  # folder and id of the saves whose disks this one needs


@dataclass(frozen=True)
class Resumed:
    """One rank's part of a save, checked to be complete."""

    folder: RankFolder
    part: RankPart

    def check_host(self, qemu_binary: str, accel: Accel) -> None:
        """Check that the saved memory fits this host.

        Raises:
            HostError: qemu's version, the accelerator or the CPU do not fit.
        """
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
        """CPU model of the saved guest. It is recorded because the meaning of vm.cpu_model=auto may change."""
        return option_value(self.part.machine, "-cpu")

    def check_machine(self, machine: Sequence[str]) -> None:
        """Check that qemu's options define the machine that was saved.

        Raises:
            HostError: They define another machine.
        """
        if found := difference(self.part.machine, machine):
            raise HostError(
                f"{self.folder.root}: fits another machine: {found}",
                hint="another version of mvpnet saved it? save.json says which; resume with that one",
            )

    def copy_seed(self, target: Path) -> None:
        """Copy the saved seed to `target`.

        Raises:
            HostError: It cannot be copied.
        """
        try:
            shutil.copyfile(self.folder.seed, target)
        except OSError as error:
            raise HostError(f"{error.filename}: {error.strerror}") from error

    def drives(self, planned: Sequence[DrivePlan], scratch: Path) -> tuple[DrivePlan, ...]:
        """Return the drives, with new overlays on the saved disks in place of the disks that the guest writes."""
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
        """Open the saved memory for qemu; the caller closes the descriptor.

        Raises:
            HostError: It cannot be opened.
        """
        try:
            return os.open(self.folder.memory, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"{self.folder.memory}: {error.strerror}") from error


def resumed(resume: Resume | None, rank: int) -> Resumed | None:
    """Return this rank's part of the save that the job resumes; None for a job that boots.

    Raises:
        HostError: The part is not on this host.
        ConfigError: The part, or one that it depends on, is broken or of another save.
    """
    if resume is None:
        return None
    for path, save_id in resume.stands_on:
        read_part(SaveFolder(Path(path)).rank(rank), save_id)
    folder = SaveFolder(resume.folder).rank(rank)
    return Resumed(folder, read_part(folder, resume.id))

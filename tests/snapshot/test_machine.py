"""What of a machine has to be the same for saved memory, and which disks can be saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.guest.drives import DrivePlan
from mvpnet.snapshot.machine import cpu_flags, difference, machine_of, missing_flags, saved_disks, why_not
from mvpnet.spec.schema import ImageUse

ARGV = [
    *("qemu", "-nodefaults", "-name", "a.n0000", "-accel", "tcg", "-m", "512M"),
    *("-chardev", "socket,id=qmp,fd=8", "-drive", "file=/a,,b,format=qcow2,media=disk,if=virtio"),
    *("-netdev", "user,id=usernet,hostfwd=tcp:127.0.0.1:2200-:22", "-device", "virtio-net-pci,netdev=usernet"),
    *("-fw_cfg", "name=opt/key,file=/scratch/key"),
]


def drive(use: ImageUse | None, *, writes: bool = True, key: str = "image.path") -> DrivePlan:
    return DrivePlan(key, "file=/x", use, Path("/image"), "raw", Path("/target"), "qcow2", writes)


def test_what_the_guest_sees_is_kept_and_where_it_is_on_the_host_is_not():
    assert machine_of(ARGV) == [
        "-accel tcg",
        "-m 512M",
        "-drive media=disk,if=virtio",
        "-device virtio-net-pci,netdev=usernet",
        "-fw_cfg name=opt/key",
    ]


def test_machines_are_compared():
    other = [*machine_of(ARGV), "-device pvpanic"]
    assert difference(machine_of(ARGV), machine_of(ARGV)) is None
    assert difference(machine_of(ARGV), other) == "here there is -device pvpanic"
    assert difference(other, machine_of(ARGV)) == "saved with -device pvpanic"


def test_cpu_features():
    cpuinfo = "processor\t: 0\nflags\t\t: vmx avx sse\n\nprocessor\t: 1\nflags\t\t: other\n"
    assert cpu_flags(cpuinfo) == ["avx", "sse", "vmx"]
    assert cpu_flags("Features\t: fp asimd\n") == ["asimd", "fp"]
    assert cpu_flags("") == []
    assert missing_flags(["avx", "sse"], ["sse", "vmx"]) == ["avx"]


def test_disks_that_are_saved():
    drives = [drive(ImageUse.overlay), drive(ImageUse.readonly, writes=False), drive(ImageUse.copy)]
    assert sorted(saved_disks(drives)) == [0, 2]
    assert why_not(drives, (), ["-cdrom", "/x.iso", "-global", "a=b"]) is None


@pytest.mark.parametrize(
    ("plan", "arguments", "problem"),
    [
        (drive(ImageUse.direct), [], "the guest writes /image itself"),
        (drive(ImageUse.snapshot), [], "is in no file"),
        (drive(None), [], "is passed to qemu as it is"),
        (drive(ImageUse.overlay), ["-device", "x", "-drive", "file=/y"], "through -drive"),
        (drive(ImageUse.overlay), ["--hda", "/y"], "through -hda"),
    ],
)
def test_disks_that_cannot_be_saved(plan: DrivePlan, arguments: list[str], problem: str):
    told = why_not([plan], ("cloud_init.path",), arguments)
    assert told and problem in told


def test_a_seed_of_the_users_is_no_disk_of_the_guests():
    assert why_not([drive(ImageUse.snapshot, key="cloud_init.path")], ("cloud_init.path",), []) is None

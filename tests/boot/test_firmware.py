"""A guest that boots by UEFI firmware, on another user network: what it sees, and that a save holds its firmware."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from boot.test_guests import answers, ssh, stopped, up
from control.verbs import said
from mvpnet.qemu.binary import machine_name
from mvpnet.qemu.firmware import descriptor_folders, find_firmware, read_descriptors, share_folders
from support import StartMvpnet

QEMU = shutil.which("qemu-system-x86_64")


def found() -> bool:
    if QEMU is None:
        return False
    descriptors = read_descriptors(descriptor_folders(Path(QEMU)))
    return find_firmware(descriptors, share_folders(Path(QEMU)), "x86_64", machine_name(QEMU, "q35")) is not None


pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not found(), reason="there is no UEFI firmware for x86-64 here: install ovmf or edk2-ovmf"),
]


def test_uefi_and_another_user_network(start_mvpnet: StartMvpnet, tmp_path: Path) -> None:
    options = ["vm.firmware=auto", "vm.machine=q35", "net.user_network=172.30.7.0/24"]
    job = up(start_mvpnet, 1, *options, "job.name=uefi")
    assert list(job.scratch.rglob("firmware-variables-0.fd"))
    by_firmware, route, names = answers(job, 0, "ls /sys/firmware/efi", "ip route show default", "cat /etc/resolv.conf")
    assert "systab" in by_firmware
    assert "default via 172.30.7.2 " in route
    assert "nameserver 172.30.7.3\n" in names
    said("save", "uefi", str(tmp_path / "saved"))
    stopped(job)
    shutil.rmtree(job.cwd / "run")
    again = start_mvpnet(f"resume={tmp_path / 'saved'}", "hydra.run.dir=run", ranks=1)
    again.wait_for("1/1 guests up", 120)
    assert "systab" in ssh(again, 0, "ls /sys/firmware/efi")
    stopped(again)

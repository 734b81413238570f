"""The initrd of an image booted by -kernel: what is in it, and which kernel arguments go with an emulated CPU.

tests/boot boots guests with it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mvpnet.guest.wiring import kernel_arguments
from mvpnet.images import debian
from mvpnet.images.boot import BootFiles
from mvpnet.images.initrd import INIT, MODULES, initrd
from mvpnet.images.tiny.errors import TinyBuildError
from mvpnet.spec.schema import Accel


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A kernel that has ext4 built in, and whose virtio_blk takes virtio."""
    folder = tmp_path / "modules/6.1"
    folder.mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    for name in (*MODULES, "virtio"):
        if name != "ext4":
            takes = b"virtio" if name == "virtio_blk" else b""
            (folder / f"{name}.ko").write_bytes(b"ELF\0depends=" + takes + b"\0name=" + name.encode() + b"\0")
    return folder


def listed(archive: bytes) -> list[str]:
    done = subprocess.run(["cpio", "--list", "--quiet"], input=archive, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().split()


def test_it_holds_a_shell_and_the_modules_in_order(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"a program")
    names = listed(initrd(modules, tmp_path / "busybox"))
    assert {"init", "bin/busybox", "dev", "proc", "root", "sys"} <= set(names)
    loaded = [name.partition("-")[2] for name in names if name.startswith("modules/")]
    assert loaded == ["virtio_pci.ko", "virtio.ko", "virtio_blk.ko", "crc32c_generic.ko"]


def test_a_kernel_without_the_disks_module_is_refused(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "busybox").touch()
    (modules / "virtio_blk.ko").unlink()
    with pytest.raises(TinyBuildError, match=r"kernel 6\.1 has no module virtio_blk"):
        initrd(modules, tmp_path / "busybox")


def test_its_init_is_a_shell_script() -> None:
    subprocess.run(["sh", "-n", "-c", INIT], check=True)


@pytest.mark.parametrize(
    ("boot", "accel", "arguments"),
    [
        (BootFiles(kernel_args="root=/dev/vda mine"), Accel.tcg, "root=/dev/vda mine"),
        (BootFiles(kernel_args="mine", emulated_kernel_args="fast"), Accel.tcg, "fast mine"),
        (BootFiles(kernel_args="mine", emulated_kernel_args="fast"), Accel.kvm, "mine"),
        (BootFiles(), Accel.tcg, None),
    ],
)
def test_the_users_kernel_arguments_come_last(boot: BootFiles, accel: Accel, arguments: str | None) -> None:
    assert kernel_arguments(boot, accel) == arguments


def test_what_an_emulated_cpu_is_spared() -> None:
    mitigations, blacklist = debian.EMULATED_KERNEL_ARGS.split()
    assert mitigations == "mitigations=off"
    assert "kvm_amd" in blacklist and "virtio" not in blacklist and "button" not in blacklist

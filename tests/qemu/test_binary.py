"""What qemu programs answer to questions about themselves; programs that are built without something are scripts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mvpnet.errors import HostError
from mvpnet.qemu.binary import check_netdev, has_block_driver, machine_name, netdevs, panic_device
from mvpnet.spec.schema import NetKind

X86, ARM = "qemu-system-x86_64", "qemu-system-aarch64"
needs_x86 = pytest.mark.skipif(shutil.which(X86) is None, reason=f"{X86} is not installed")
needs_arm = pytest.mark.skipif(shutil.which(ARM) is None, reason=f"{ARM} is not installed")


def qemu_that_says(tmp_path: Path, *, netdevs: str = "", formats: str = "", machines: str = "") -> str:
    """A program that answers as qemu 9.1 does, in the place of one that was built so."""
    path = tmp_path / "qemu-system-x86_64"
    lines = ["#!/bin/sh", "case $* in", '*--version*) echo "QEMU emulator version 9.1.0";;']
    lines += [f'"-netdev help"*) printf "Available netdev backend types:\\n{netdevs}\\n";;'] if netdevs else []
    lines += [f'"-drive format=help"*) printf "Supported formats: {formats}\\n";;'] if formats else []
    lines += [f'"-machine help"*) printf "Supported machines are:\\n{machines}\\n";;'] if machines else []
    path.write_text("\n".join([*lines, "esac", ""]))
    path.chmod(0o755)
    return str(path)


def test_a_qemu_without_slirp_is_refused(tmp_path: Path) -> None:
    program = qemu_that_says(tmp_path, netdevs="socket\\nstream\\ndgram\\ntap")
    with pytest.raises(HostError, match=r"^qemu\.binary: .* \(qemu 9\.1\.0\) has no -netdev user, .* slirp") as refused:
        check_netdev(program, NetKind.stream)
    assert refused.value.hint and "--enable-slirp" in refused.value.hint


@pytest.mark.parametrize("listed", ["", "user\\nstream\\ndgram"])
def test_a_qemu_that_has_it_or_says_nothing_is_taken(tmp_path: Path, listed: str) -> None:
    check_netdev(qemu_that_says(tmp_path, netdevs=listed), NetKind.dgram)


@pytest.mark.parametrize(
    ("formats", "has"),
    [
        ("raw qcow2 vvfat", True),
        ("raw qcow2\\nSupported formats (read-only): vvfat vmdk", False),  # a snapshot is opened for writing
        ("raw qcow2 vvfat2", False),
        ("", True),
    ],
)
def test_block_drivers(tmp_path: Path, formats: str, has: bool) -> None:
    assert has_block_driver(qemu_that_says(tmp_path, formats=formats), "vvfat") is has


def test_a_program_that_is_not_there_lacks_nothing() -> None:
    assert has_block_driver("/no/such/qemu", "vvfat"), "what is missing is refused by a check of its own"


MACHINES = (
    "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-9.1)\\n"
    "pc-i440fx-9.1        Standard PC (i440FX + PIIX, 1996) (default)\\n"
    "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-9.1)\\n"
    "pc-q35-9.1           Standard PC (Q35 + ICH9, 2009)"
)


@pytest.mark.parametrize(
    ("asked", "name"),
    [(None, "pc-i440fx-9.1"), ("q35", "pc-q35-9.1"), ("pc", "pc-i440fx-9.1"), ("pc-q35-8.0", "pc-q35-8.0")],
)
def test_names_of_machines(tmp_path: Path, asked: str | None, name: str) -> None:
    assert machine_name(qemu_that_says(tmp_path, machines=MACHINES), asked) == name


def test_a_program_that_lists_no_machines(tmp_path: Path) -> None:
    program = qemu_that_says(tmp_path)
    assert machine_name(program, None) is None
    assert machine_name(program, "q35") == "q35"


@needs_x86
def test_this_qemu() -> None:
    assert has_block_driver(X86, "vvfat") and not has_block_driver(X86, "no-such-driver")
    assert str(machine_name(X86, "q35")).startswith("pc-q35-")
    assert str(machine_name(X86, None)).startswith("pc-")


@needs_arm
def test_a_qemu_without_a_default_machine_answers_too() -> None:
    assert {"user", "stream", "dgram"} <= netdevs(ARM)
    assert panic_device(ARM) == "pvpanic-pci"
    assert has_block_driver(ARM, "vvfat")
    assert machine_name(ARM, None) is None
    assert str(machine_name(ARM, "virt")).startswith("virt-")

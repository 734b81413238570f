"""Which UEFI firmware is found, from descriptors and files that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mvpnet.qemu.firmware import (
    Firmware,
    FlashImage,
    describing,
    descriptor_folders,
    find_firmware,
    flash_image,
    read_descriptors,
    share_folders,
    variables_beside,
)

PC, Q35, VIRT = "pc-i440fx-7.2", "pc-q35-7.2", "virt-7.2"


def made(path: Path, content: bytes = b"\0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def descriptor(folder: Path, name: str, **changes: Any) -> Path:
    """A descriptor as Debian's package has it, with its two files; `changes` replaces its members."""
    code, variables = made(folder / f"{name}-code.fd"), made(folder / f"{name}-vars.fd")
    content = {
        "description": "UEFI",
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(code), "format": "raw"},
            "nvram-template": {"filename": str(variables), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3"],
        "tags": [],
    }
    return made(folder / f"{name}.json", json.dumps({**content, **changes}).encode())


def found(folders: list[Path], architecture: str = "x86_64", machine: str | None = Q35) -> str | None:
    firmware = find_firmware(read_descriptors(folders), [], architecture, machine)
    return firmware.code.path.name if firmware else None


def test_the_first_that_fits_is_taken(tmp_path: Path) -> None:
    descriptor(tmp_path, "30-arm", targets=[{"architecture": "aarch64", "machines": ["virt-*"]}])
    descriptor(tmp_path, "40-secure", features=["secure-boot", "requires-smm"])
    descriptor(tmp_path, "50-q35", targets=[{"architecture": "x86_64", "machines": ["pc-q35-*"]}])
    descriptor(tmp_path, "60-any")
    assert found([tmp_path]) == "50-q35-code.fd"
    assert found([tmp_path], machine=PC) == "60-any-code.fd"
    assert found([tmp_path], machine=None) == "50-q35-code.fd"
    assert found([tmp_path], machine="microvm") is None
    assert found([tmp_path], "aarch64", VIRT) == "30-arm-code.fd"
    assert found([tmp_path], "riscv64", VIRT) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"interface-types": ["bios"]},
        {"mapping": {"device": "memory", "filename": "/x"}},
        {"mapping": {"device": "flash", "mode": "combined", "executable": {"filename": "/bin/sh", "format": "raw"}}},
        {"mapping": {"device": "flash", "executable": {"filename": "/no/such/file", "format": "raw"}}},
        {"features": ["secure-boot"]},
        {"targets": []},
        {"targets": 3},
        {"mapping": None},
        {"mapping": []},
        {"features": None},
    ],
)
def test_descriptors_that_are_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    descriptor(tmp_path, "10-other", **changes)
    assert found([tmp_path]) is None
    descriptor(tmp_path, "20-good")
    assert found([tmp_path]) == "20-good-code.fd"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"{}"])
def test_a_file_that_is_no_descriptor_hides_one_of_its_name_in_an_earlier_folder(
    tmp_path: Path, content: bytes
) -> None:
    vendor, site = tmp_path / "vendor", tmp_path / "site"
    descriptor(vendor, "10-a")
    descriptor(vendor, "20-b")
    made(site / "10-a.json", content)
    assert found([vendor, tmp_path / "nothing"]) == "10-a-code.fd"
    assert found([vendor, site]) == "20-b-code.fd"


def test_formats_and_stateless_firmware(tmp_path: Path) -> None:
    code = made(tmp_path / "code.qcow2", b"QFI\xfb\0\0\0\3" + bytes(16) + (2**22).to_bytes(8, "big"))
    mapping = {"device": "flash", "mode": "stateless", "executable": {"filename": str(code), "format": "qcow2"}}
    descriptor(tmp_path, "10-a", mapping=mapping)
    [one] = read_descriptors([tmp_path])
    assert one.firmware == Firmware(FlashImage(code, "qcow2"), None)
    assert one.firmware.code.size_bytes() == 2**22
    assert flash_image(code) == FlashImage(code, "qcow2")
    assert flash_image(made(tmp_path / "raw")) == FlashImage(tmp_path / "raw", "raw")


def test_folders(tmp_path: Path) -> None:
    qemu = made(tmp_path / "opt/qemu/bin/qemu-system-x86_64")
    home = {"HOME": "/home/u"}
    assert descriptor_folders(qemu, home) == [
        Path("/usr/share/qemu/firmware"),
        tmp_path / "opt/qemu/share/qemu/firmware",
        Path("/etc/qemu/firmware"),
        Path("/home/u/.config/qemu/firmware"),
    ]
    assert descriptor_folders(qemu, {"XDG_CONFIG_HOME": "/c"})[-1] == Path("/c/qemu/firmware")
    assert share_folders(qemu)[:2] == [tmp_path / "opt/qemu/share", Path("/usr/share")]
    assert descriptor_folders(qemu, {}), "without a home too"


@pytest.mark.parametrize(
    ("architecture", "machine", "code", "variables"),
    [
        ("x86_64", PC, "OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"),
        ("x86_64", None, "edk2/ovmf/OVMF_CODE.fd", "edk2/ovmf/OVMF_VARS.fd"),
        ("x86_64", Q35, "edk2/x64/OVMF_CODE.4m.fd", "edk2/x64/OVMF_VARS.4m.fd"),
        ("x86_64", Q35, "qemu/edk2-x86_64-code.fd", "qemu/edk2-i386-vars.fd"),
        ("aarch64", VIRT, "AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd"),
        ("aarch64", VIRT, "edk2/aarch64/QEMU_EFI-pflash.raw", "edk2/aarch64/vars-template-pflash.raw"),
        ("riscv64", "virt", "qemu-efi-riscv64/RISCV_VIRT_CODE.fd", "qemu-efi-riscv64/RISCV_VIRT_VARS.fd"),
    ],
)
def test_well_known_paths(tmp_path: Path, architecture: str, machine: str | None, code: str, variables: str) -> None:
    made(tmp_path / code)
    assert find_firmware([], [tmp_path], architecture, machine) is None, "the template of its variables is missing"
    made(tmp_path / variables)
    found = find_firmware([], [Path("/nothing"), tmp_path], architecture, machine)
    assert found == Firmware(FlashImage(tmp_path / code, "raw"), FlashImage(tmp_path / variables, "raw"))
    assert find_firmware([], [tmp_path], architecture, "microvm") is None
    assert find_firmware([], [tmp_path], "s390x", None) is None
    assert variables_beside(tmp_path / code, [tmp_path]) == tmp_path / variables


@pytest.mark.parametrize(
    ("code", "variables"),
    [
        ("OVMF_CODE.fd", "OVMF_VARS.fd"),
        ("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd"),
        ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd"),
        ("OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"),
        ("ovmf-x86_64-code.bin", "ovmf-x86_64-vars.bin"),
        ("RELEASEX64_OVMF_CODE.fd", "RELEASEX64_OVMF_VARS.fd"),
        ("QEMU_EFI.fd", "QEMU_VARS.fd"),
    ],
)
def test_variables_by_name(tmp_path: Path, code: str, variables: str) -> None:
    made(tmp_path / code)
    assert variables_beside(tmp_path / code, []) is None
    made(tmp_path / variables)
    assert variables_beside(tmp_path / code, []) == tmp_path / variables


@pytest.mark.parametrize("code", ["OVMF.fd", "bios.bin"])
def test_an_image_without_variables(tmp_path: Path, code: str) -> None:
    made(tmp_path / "OVMF_VARS.fd")
    assert variables_beside(made(tmp_path / code), []) is None


def test_a_code_image_by_its_descriptor(tmp_path: Path) -> None:
    descriptor(tmp_path, "10-a")
    (tmp_path / "link").symlink_to(tmp_path / "10-a-code.fd")
    descriptors = read_descriptors([tmp_path])
    assert describing(descriptors, tmp_path / "link") == descriptors
    assert describing(descriptors, made(tmp_path / "other")) == []

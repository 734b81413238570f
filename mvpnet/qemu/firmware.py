"""Find UEFI firmware for qemu on this host: by the descriptors that its packages install, else by well-known paths.

A descriptor is a JSON file that says which machines an image of firmware is for, and which template its variables start
from (qemu's docs/interop/firmware.json). Firmware lies in two flash devices: code, and variables.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

_QCOW2_MAGIC: Final = b"QFI\xfb"
_QCOW2_SIZE: Final = slice(24, 32)  # of the disk, big-endian: qemu's docs/interop/qcow2.txt, "Header"
_VARIABLES_NAMES: Final = ((r"CODE", "VARS"), (r"code", "vars"), (r"^QEMU_EFI", "QEMU_VARS"))

# Below a folder such as /usr/share. Where there are several, the first that is there.
_WELL_KNOWN: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "x86_64": (
        ("OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"),  # Debian, Ubuntu
        ("OVMF/OVMF_CODE.fd", "OVMF/OVMF_VARS.fd"),
        ("edk2/ovmf/OVMF_CODE.fd", "edk2/ovmf/OVMF_VARS.fd"),  # Fedora, RHEL
        ("edk2/x64/OVMF_CODE.4m.fd", "edk2/x64/OVMF_VARS.4m.fd"),  # Arch
        ("edk2-ovmf/OVMF_CODE.fd", "edk2-ovmf/OVMF_VARS.fd"),  # Gentoo
        ("qemu/ovmf-x86_64-code.bin", "qemu/ovmf-x86_64-vars.bin"),  # SUSE
        ("qemu/edk2-x86_64-code.fd", "qemu/edk2-i386-vars.fd"),  # qemu's own
    ),
    "aarch64": (
        ("AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd"),
        ("edk2/aarch64/QEMU_EFI-pflash.raw", "edk2/aarch64/vars-template-pflash.raw"),
        ("edk2/aarch64/QEMU_CODE.fd", "edk2/aarch64/QEMU_VARS.fd"),
        ("qemu/aavmf-aarch64-code.bin", "qemu/aavmf-aarch64-vars.bin"),
        ("qemu/edk2-aarch64-code.fd", "qemu/edk2-arm-vars.fd"),
    ),
    "arm": (
        ("AAVMF/AAVMF32_CODE.fd", "AAVMF/AAVMF32_VARS.fd"),
        ("qemu/edk2-arm-code.fd", "qemu/edk2-arm-vars.fd"),
    ),
    "i386": (("qemu/edk2-i386-code.fd", "qemu/edk2-i386-vars.fd"),),
    "riscv64": (
        ("qemu-efi-riscv64/RISCV_VIRT_CODE.fd", "qemu-efi-riscv64/RISCV_VIRT_VARS.fd"),
        ("edk2/riscv/RISCV_VIRT_CODE.fd", "edk2/riscv/RISCV_VIRT_VARS.fd"),
        ("qemu/edk2-riscv-code.fd", "qemu/edk2-riscv-vars.fd"),
    ),
}
_MACHINES_OF_WELL_KNOWN: Final = ("pc-*", "virt", "virt-*")
PACKAGES: Final[Mapping[str, str]] = {
    "x86_64": "ovmf (Debian, Ubuntu), edk2-ovmf (Fedora, RHEL, Arch) or qemu-ovmf-x86_64 (SUSE)",
    "aarch64": "qemu-efi-aarch64 (Debian, Ubuntu), edk2-aarch64 (Fedora, RHEL, Arch) or qemu-uefi-aarch64 (SUSE)",
    "arm": "qemu-efi-arm (Debian, Ubuntu), edk2-arm (Arch) or qemu-uefi-aarch32 (SUSE)",
    "i386": "ovmf-ia32 (Debian, Ubuntu)",
    "riscv64": "qemu-efi-riscv64 (Debian, Ubuntu) or edk2-riscv64 (Fedora)",
}


@dataclass(frozen=True)
class FlashImage:
    path: Path
    format: str  # raw or qcow2

    def size_bytes(self) -> int:
        """Return the size of the flash device that it is the content of. Raises OSError."""
        if self.format != "qcow2":
            return self.path.stat().st_size
        with self.path.open("rb") as file:
            return int.from_bytes(file.read(_QCOW2_SIZE.stop)[_QCOW2_SIZE], "big")


@dataclass(frozen=True)
class Firmware:
    code: FlashImage
    variables: FlashImage | None  # the template; None: what the firmware saves is lost when qemu ends


@dataclass(frozen=True)
class Descriptor:
    """What one descriptor says of firmware in flash, as far as it is used here."""

    firmware: Firmware
    targets: tuple[tuple[str, tuple[str, ...]], ...]  # architecture, and patterns of machine names
    features: frozenset[str]

    @property
    def is_there(self) -> bool:
        variables = self.firmware.variables
        return self.firmware.code.path.is_file() and (variables is None or variables.path.is_file())

    def fits(self, architecture: str, machine: str | None) -> bool:
        """Return whether it is for a machine, by its full name. An unknown machine of the architecture fits."""
        return any(
            name == architecture and (machine is None or any(fnmatchcase(machine, pattern) for pattern in patterns))
            for name, patterns in self.targets
        )


def descriptor_folders(qemu: Path, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the folders with descriptors, each overridden by the next: the vendor's, this qemu's, site and user."""
    config = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config")
    shares = dict.fromkeys([Path("/usr/share"), _share_of(qemu)])
    return [*(share / "qemu/firmware" for share in shares), Path("/etc/qemu/firmware"), config / "qemu/firmware"]


def share_folders(qemu: Path) -> list[Path]:
    """Return the folders in which firmware lies at well-known paths."""
    return list(dict.fromkeys([_share_of(qemu), Path("/usr/share"), Path("/usr/local/share")]))


def _share_of(qemu: Path) -> Path:
    return qemu.resolve().parent.parent / "share"


def read_descriptors(folders: Sequence[Path]) -> list[Descriptor]:
    """Return the descriptors in order of preference. Those that cannot be read, or are of other kinds, are left out.

    A file hides those of its name in earlier folders, an empty one included.
    """
    files = {path.name: path for folder in folders if folder.is_dir() for path in folder.glob("*.json")}
    found = (_descriptor(path) for _, path in sorted(files.items()))
    return [one for one in found if one is not None]


def _descriptor(path: Path) -> Descriptor | None:
    try:
        content = json.loads(path.read_bytes())
        mapping = content["mapping"]
        is_uefi = "uefi" in content["interface-types"] and mapping["device"] == "flash"
        if not is_uefi or mapping.get("mode", "split") not in ("split", "stateless"):
            return None
        template = mapping.get("nvram-template")
        targets = tuple((one["architecture"], tuple(one["machines"])) for one in content["targets"])
        variables = _flash(template) if template else None
        return Descriptor(Firmware(_flash(mapping["executable"]), variables), targets, frozenset(content["features"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _flash(entry: Mapping[str, Any]) -> FlashImage:
    return FlashImage(Path(entry["filename"]), entry.get("format", "raw"))


def find_firmware(
    descriptors: Sequence[Descriptor], shares: Sequence[Path], architecture: str, machine: str | None
) -> Firmware | None:
    """Return the firmware for a machine, without Secure Boot; None where there is none.

    Args:
        descriptors: In order of preference.
        shares: Folders such as /usr/share.
        architecture: As in qemu-system-NAME.
        machine: Full name of qemu's machine, as pc-q35-7.2; None if it is not known.
    """
    for one in descriptors:
        if one.fits(architecture, machine) and not one.features & {"secure-boot", "requires-smm"} and one.is_there:
            return one.firmware
    if machine is not None and not any(fnmatchcase(machine, pattern) for pattern in _MACHINES_OF_WELL_KNOWN):
        return None
    for names in _WELL_KNOWN.get(architecture, ()):
        for share in shares:
            code, variables = (share / name for name in names)
            if code.is_file() and variables.is_file():
                return Firmware(flash_image(code), flash_image(variables))
    return None


def flash_image(path: Path) -> FlashImage:
    """Return an image with its format, told by its first bytes. Raises OSError."""
    with path.open("rb") as file:
        return FlashImage(path, "qcow2" if file.read(4) == _QCOW2_MAGIC else "raw")


def describing(descriptors: Sequence[Descriptor], code: Path) -> list[Descriptor]:
    """Return the descriptors of a code image."""
    return [one for one in descriptors if one.is_there and one.firmware.code.path.samefile(code)]


def variables_beside(code: Path, shares: Sequence[Path]) -> Path | None:
    """Return the template of a code image by name, as OVMF_VARS_4M.fd for OVMF_CODE_4M.fd; None if there is none.

    Images that differ only in Secure Boot share a template: of OVMF_CODE.secboot.fd it may be OVMF_VARS.fd.
    """
    pairs = (pair for known in _WELL_KNOWN.values() for pair in known)
    known = (share / variables for share in shares for name, variables in pairs if share / name == code)
    return next((path for path in (*_named_alike(code), *known) if path.is_file() and path != code), None)


def _named_alike(code: Path) -> Iterator[Path]:
    for pattern, replaced in _VARIABLES_NAMES:
        if re.search(pattern, code.name):
            name = re.sub(pattern, replaced, code.name)
            yield code.with_name(name)
            yield code.with_name(name.replace(".secboot", "").replace("-secure", ""))

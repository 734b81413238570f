"""The flash drives of a guest's UEFI firmware: which images `vm.firmware` stands for on this host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import ConfigError, HostError, ImageError
from mvpnet.host.programs import architecture, find_program
from mvpnet.images.disk_image import check_readable
from mvpnet.qemu import firmware
from mvpnet.qemu.binary import machine_name
from mvpnet.qemu.firmware import Firmware, FlashImage
from mvpnet.qemu.machines import given_machine, machine_option
from mvpnet.spec import option_string
from mvpnet.spec.drive_text import expand, parse_drive
from mvpnet.spec.model import RankSpec

KEY = "vm.firmware"
VARIABLES_KEY = "vm.firmware.variables"
AUTO = "auto"
_NEEDS_IT = ("aarch64", "arm")  # qemu has no firmware of its own for their virt machine
_OTHER_FIRMWARE = ("bios", "pflash")  # qemu's options
_PAGE_BYTES = 4096
_MOST_ON_PC_BYTES = 8 * 2**20  # max-fw-size in hw/i386/pc.c of qemu 7.2
_ON_VIRT_BYTES = {"aarch64": 64 * 2**20, "arm": 64 * 2**20, "riscv64": 32 * 2**20}  # each of the two devices


@dataclass(frozen=True)
class FlashDrive:
    """The content of one of the machine's two flash devices."""

    key: str  # for messages and records
    image: FlashImage
    unit: int
    is_copied: bool  # the rank writes a copy of its own


def flash_drives(spec: RankSpec) -> tuple[FlashDrive, ...]:
    """Return the firmware's code and variables; nothing for a guest without UEFI firmware.

    Raises:
        ConfigError: The drives or qemu.extra_args have firmware too.
        HostError: There is no firmware for this machine.
        ImageError: The file that is named cannot be used, or is for another machine.
    """
    if (wanted := wanted_firmware(spec)) is None:
        return ()
    if other := other_firmware(spec):
        raise ConfigError(f"{KEY}: {other} is firmware too", hint="take one of them")
    found = _found(spec) if wanted == AUTO else _named(Path(expand(wanted, spec, KEY)), spec)
    _check_sizes(found, spec)
    code = FlashDrive(KEY, found.code, 0, is_copied=False)
    return (code, FlashDrive(VARIABLES_KEY, found.variables, 1, is_copied=True)) if found.variables else (code,)


def wanted_firmware(spec: RankSpec) -> str | None:
    """Return vm.firmware; `auto` for a guest that boots a disk on a machine without firmware of qemu's own."""
    if spec.vm.firmware is not None:
        return spec.vm.firmware
    arguments = [argument.lstrip("-") for argument in spec.qemu.extra_args]
    boots_disk = spec.image.kernel is None and "kernel" not in arguments
    needs_it = architecture(spec.qemu.binary) in _NEEDS_IT and (_machine_type(spec) or "").startswith("virt")
    return AUTO if boots_disk and needs_it and other_firmware(spec) is None else None


def other_firmware(spec: RankSpec) -> str | None:
    """Return where the user gives the guest firmware in another way; None if nowhere."""
    for index, text in enumerate(spec.image.drives):
        if parse_drive(text, f"image.drives[{index}]").properties.get("if") == "pflash":
            return f"image.drives[{index}] (if=pflash)"
    for argument in spec.qemu.extra_args:
        if argument.startswith("-") and argument.lstrip("-") in _OTHER_FIRMWARE:
            return f"qemu.extra_args ({argument})"
    return None


def _machine_type(spec: RankSpec) -> str | None:
    """Return the full name of the guest's machine; None where it is not known."""
    extra = spec.qemu.extra_args
    option = given_machine(extra) or machine_option(spec.vm.machine, architecture(spec.qemu.binary), extra)
    words = option_string.split(option) if option else []
    given = next((word.removeprefix("type=") for word in words if word.startswith("type=") or "=" not in word), None)
    return machine_name(spec.qemu.binary, given)


def _found(spec: RankSpec) -> Firmware:
    qemu, arch = find_program(spec.qemu.binary, "qemu.binary"), architecture(spec.qemu.binary)
    machine = _machine_type(spec)
    descriptors = firmware.read_descriptors(firmware.descriptor_folders(qemu))
    found = firmware.find_firmware(descriptors, firmware.share_folders(qemu), arch, machine)
    if found is None:
        packages = firmware.PACKAGES.get(arch)
        raise HostError(
            f"{KEY}: there is no UEFI firmware for {arch}{f', machine {machine},' if machine else ''} on this host",
            hint=f"install {packages}, or name a file: {KEY}=FILE" if packages else f"name a file: {KEY}=FILE",
        )
    return found


def _named(code: Path, spec: RankSpec) -> Firmware:
    """Return the firmware of a code image that the user names, with its variables' template where there is one."""
    check_readable(code, KEY)
    qemu, machine = find_program(spec.qemu.binary, "qemu.binary"), _machine_type(spec)
    described = firmware.describing(firmware.read_descriptors(firmware.descriptor_folders(qemu)), code)
    fitting = [one for one in described if one.fits(architecture(spec.qemu.binary), machine)]
    if fitting:
        return fitting[0].firmware
    if described:
        targets = ", ".join(f"{arch} {' '.join(names)}" for arch, names in described[0].targets)
        raise ImageError(
            f"{KEY}: {code} is for {targets}, and the guest is {architecture(spec.qemu.binary)} {machine}",
            hint=f"another vm.machine, or {KEY}={AUTO}",
        )
    variables = firmware.variables_beside(code, firmware.share_folders(qemu))
    return Firmware(firmware.flash_image(code), firmware.flash_image(variables) if variables else None)


def _check_sizes(found: Firmware, spec: RankSpec) -> None:
    """Refuse images that qemu does not take as flash, or that do not belong together."""
    images = [found.code, *([found.variables] if found.variables else [])]
    arch, machine = architecture(spec.qemu.binary), _machine_type(spec) or ""
    if (exact := _ON_VIRT_BYTES.get(arch)) and machine.startswith("virt"):
        for image in images:
            if image.size_bytes() != exact:
                raise _bad_size(image, f"flash of {machine} {exact // 2**20} MiB", exact)
    elif machine.startswith("pc"):
        for image in images:
            if image.size_bytes() % _PAGE_BYTES or not image.size_bytes():
                raise _bad_size(image, "flash whole pages of 4096")
        _check_sum_on_pc(found)


def _check_sum_on_pc(found: Firmware) -> None:
    code_bytes = found.code.size_bytes()
    variables_bytes = found.variables.size_bytes() if found.variables else 0
    if code_bytes + variables_bytes > _MOST_ON_PC_BYTES:
        raise _bad_size(found.code, f"a PC takes {_MOST_ON_PC_BYTES} for code and variables together")
    if found.variables and (code_bytes + variables_bytes) % 2**20:
        raise ImageError(
            f"{KEY}: {found.code.path} and {found.variables.path} are not of one build: {code_bytes} and "
            f"{variables_bytes} bytes, which together are no whole MiB",
            hint="OVMF_CODE_4M.fd goes with OVMF_VARS_4M.fd, and OVMF_CODE.fd with OVMF_VARS.fd",
        )


def _bad_size(image: FlashImage, has: str, pad_to_bytes: int | None = None) -> ImageError:
    padded = f"a padded one, as AAVMF_CODE.fd or QEMU_EFI-pflash.raw, or a copy: truncate -s {pad_to_bytes} COPY"
    return ImageError(
        f"{KEY}: {image.path} has {image.size_bytes()} bytes, and {has}",
        hint=padded if pad_to_bytes else f"a code image such as OVMF_CODE_4M.fd, or {KEY}={AUTO}",
    )

"""Refuse, before a guest starts, a file that cannot be the disk, kernel, initrd or seed that a key says it is.

A raw disk may hold anything: what is no disk by its first bytes is taken as one all the same with format=raw.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mvpnet.errors import ImageError
from mvpnet.images.disk_image import check_readable
from mvpnet.images.file_kind import EMPTY, RAW, Family, FileKind, kind_of, read_head
from mvpnet.images.qcow2 import Qcow2Error, Qcow2Header, check_whole, read_header
from mvpnet.qemu.architectures import runs

_HAS_PROTOCOL = re.compile(r"[^/:]+:")  # nbd://host, json:{…}, fat:FOLDER (block.c, path_has_protocol)
_TOLD_BY_MARK = ("qcow2", "qcow", "qed", "vmdk", "vhdx", "vdi")  # not vpc, which may have its mark at the end alone
_NO_DISK = (Family.packed, Family.archive, Family.page, Family.encrypted, Family.kernel)
_UNPACKED_BY_STORE = ("xz", "zstd", "gz")
_VMDK_EXTENT = re.compile(rb'^(?:RW|RDONLY) \d+ [A-Z]+ "([^"\n]+)"', re.MULTILINE)
_LONGEST_CHAIN = 200
_ISO_PADDING_BYTES = 300 * 1024  # 150 sectors, which mkisofs adds and other programs leave out
_CONFIG_DRIVE = (b"config-2", b"CONFIG-2")  # the label by which cloud-init's ConfigDrive finds any file system


@dataclass(frozen=True)
class DiskUse:
    """How a disk image is to be used, as far as it decides what is refused."""

    format: str | None = None  # as the user says
    boots: bool = False  # the guest boots from it, and not by -kernel
    properties: Mapping[str, str] = field(default_factory=dict)  # of -drive

    @property
    def has_secret(self) -> bool:
        return any(name.endswith("key-secret") for name in self.properties)


def disk_format(path: Path, key: str, use: DiskUse) -> str:
    """Return the format of a disk image as qemu names it, after checking that it is one and is whole.

    Raises:
        ImageError: It cannot be used. Names `key`, what it is, and what to do.
    """
    check_readable(path, key)
    kind = _kind(path, key)
    if kind is EMPTY:
        raise _refused(path, key, kind)
    if use.format == "raw":
        return "raw"
    if kind.family is Family.disk:
        if use.format in _TOLD_BY_MARK and use.format != kind.name:
            raise _other_format(path, key, kind, use.format)
        _check_image(path, key, kind, use)
        return use.format or kind.name
    if use.format in _TOLD_BY_MARK:
        raise _other_format(path, key, kind, use.format)
    if use.format is None:
        _check_raw(path, key, kind, use)
    return use.format or "raw"


def _kind(path: Path, key: str) -> FileKind:
    try:
        return kind_of(read_head(path))
    except OSError as error:
        raise ImageError(f"{key}: {path} cannot be read: {error.strerror}") from error


def _refused(path: Path, key: str, kind: FileKind, what: str = "a disk image", more: str = "") -> ImageError:
    todo = kind.todo.format(path=path) if kind.todo else ""
    negated = "" if kind is EMPTY else f", not {what}"
    return ImageError(f"{key}: {path} is {kind.words}{negated}", hint="; ".join(filter(None, [todo, more])) or None)


def _other_format(path: Path, key: str, kind: FileKind, said: str) -> ImageError:
    todo = kind.todo.format(path=path) + "; or " if kind.todo else ""
    return ImageError(
        f"{key}: {path} is {kind.words}, not the {said} image that its format is said to be",
        hint=f"{todo}leave out the format, which is told by the file's first bytes",
    )


def local_path(name: str, folder: Path) -> Path | None:
    """Return the file that qemu opens for a name in `folder`; None for what comes by another protocol.

    A relative path behind file: counts from qemu's own folder, which is not known here: None too.
    """
    if not _HAS_PROTOCOL.match(name):
        return folder / name
    return Path(name.removeprefix("file:")) if name.startswith("file:/") and name[6:7] != "/" else None


# -- raw disks ---------------------------------------------------------------------------------------------------------


def _check_raw(path: Path, key: str, kind: FileKind, use: DiskUse) -> None:
    if kind.family in _NO_DISK and (use.boots or not _is_for_the_guest(kind)):
        raise _refused(path, key, kind, more=_other_ways(path, key, kind))
    try:
        missing, size = _needed_bytes(read_head(path)), size_bytes(path)
    except OSError as error:
        raise ImageError(f"{key}: {path} cannot be read as a disk: {error.strerror}") from error
    if missing > size:
        raise ImageError(
            f"{key}: {path} was cut off: it has {size} bytes, and {kind.words} of {missing} bytes begins in it",
            hint=_as_raw(key),
        )


def _is_for_the_guest(kind: FileKind) -> bool:
    """Return whether a guest may well open this on a drive that it does not boot from."""
    return kind.name == "luks" or kind.family is Family.kernel


def _other_ways(path: Path, key: str, kind: FileKind) -> str:
    unpacking = f"image.source={path} in place of image.path unpacks it by itself; "
    is_unpacked = key == "image.path" and kind.name in _UNPACKED_BY_STORE
    return (unpacking if is_unpacked else "") + _as_raw(key)


def _as_raw(key: str) -> str:
    how = "image.format=raw" if key == "image.path" else "PATH,format=raw"
    return f"{how} takes it as a raw disk all the same"


def size_bytes(path: Path) -> int:
    """Return the size of a file or block device. Raises OSError."""
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def _needed_bytes(head: bytes) -> int:
    """Return the least size of a raw disk with this beginning; 0 where that is not known.

    Only what no guest could mount is counted: Linux refuses a file system or GPT that reaches beyond its disk.
    """
    needed = [0]
    for sector in (512, 4096):
        if head[sector : sector + 8] == b"EFI PART":  # UEFI 2.10, 5.3.2: the last usable block, at 48
            needed.append((_unsigned("<Q", head, sector + 48) + 1) * sector)
    if head[1080:1082] == b"\x53\xef":  # Linux: Documentation/filesystems/ext4/super.rst
        blocks = _unsigned("<I", head, 1024 + 4)
        if _unsigned("<I", head, 1024 + 0x60) & 0x80:
            blocks += _unsigned("<I", head, 1024 + 0x150) << 32
        needed.append(blocks << (10 + min(_unsigned("<I", head, 1024 + 24), 6)))
    if head[:4] == b"XFSB":
        needed.append(_unsigned(">I", head, 4) * _unsigned(">Q", head, 8))
    if head[32769:32774] == b"CD001":  # ECMA-119, 8.4.8: the volume's size in blocks
        needed.append(_unsigned("<I", head, 32768 + 80) * 2048 - _ISO_PADDING_BYTES)
    return max(needed)


def _unsigned(form: str, head: bytes, at: int) -> int:
    try:
        return int(struct.unpack_from(form, head, at)[0])
    except struct.error:
        return 0


# -- images in a format of qemu's --------------------------------------------------------------------------------------


def _check_image(path: Path, key: str, kind: FileKind, use: DiskUse) -> None:
    """Check an image and all backing files, and that its data files are there."""
    seen = {path}
    for _ in range(_LONGEST_CHAIN):
        _check_extents(path, key, kind)
        header = _qcow2(path, key, kind, use)
        backing = local_path(header.backing, path.parent) if header and header.backing else None
        if header is None or header.backing is None or backing is None:
            return
        _check_there(backing, path, key, f"an overlay of {header.backing}", "backing file")
        if backing in seen:
            raise ImageError(f"{key}: {path} is an overlay of {backing}, which is an overlay of it again")
        seen.add(backing)
        kind = _kind(backing, key)
        if header.backing_format in (None, "raw"):
            _check_backing(backing, path, key, kind, is_raw=header.backing_format == "raw")
        elif header.backing_format in _TOLD_BY_MARK and kind.name != header.backing_format:
            raise ImageError(
                f"{key}: {path} is an overlay of {backing}, which is {kind.words}, not a {header.backing_format} image"
            )
        if kind.family is not Family.disk or header.backing_format == "raw":
            return
        path = backing


def _check_backing(backing: Path, path: Path, key: str, kind: FileKind, *, is_raw: bool) -> None:
    if kind is EMPTY or (kind.family in (Family.packed, Family.archive, Family.page) and not is_raw):
        raise ImageError(f"{key}: {path} is an overlay of {backing}, which is {kind.words}")


def _check_there(needed: Path, path: Path, key: str, relation: str, name: str) -> None:
    try:
        check_readable(needed, key)
    except ImageError as error:
        why = error.message.removeprefix(f"{key}: ")
        raise ImageError(
            f"{key}: {path} is {relation}, and {why}",
            hint=f"bring the {name} there, or make a whole image where it is: qemu-img convert -O qcow2 OLD NEW",
        ) from error


def _check_extents(path: Path, key: str, kind: FileKind) -> None:
    """Check that the files are there that a descriptor of VMDK names."""
    head = read_head(path) if kind.name == "vmdk" else b""
    if head.startswith(b"# Disk DescriptorFile"):
        for name in _VMDK_EXTENT.findall(head):
            extent = os.fsdecode(name)
            _check_there(path.parent / extent, path, key, f"a vmdk image with its data in {extent}", "data file")


def _qcow2(path: Path, key: str, kind: FileKind, use: DiskUse) -> Qcow2Header | None:
    """Return the header of a qcow2 image that is whole; None for other formats. Raises ImageError."""
    if kind.name != "qcow2":
        return None
    try:
        header = read_header(path)
        check_whole(path, header)
    except Qcow2Error as error:
        raise ImageError(
            f"{key}: {path} is a qcow2 image {error}", hint="fetch or copy it again, and compare its size or digest"
        ) from error
    except OSError as error:
        raise ImageError(f"{key}: {path} cannot be read: {error.strerror}") from error
    if header.encryption and not use.has_secret:
        raise ImageError(
            f"{key}: {path} is an encrypted qcow2 image ({'LUKS' if header.encryption == 2 else 'AES'})",
            hint="make one without: qemu-img convert --object secret,id=s,file=KEY --image-opts "
            f"driver=qcow2,file.filename={path},encrypt.key-secret=s -O qcow2 NEW",
        )
    if header.data_file and (data := local_path(header.data_file, path.parent)):
        _check_there(data, path, key, f"a qcow2 image with its data in {header.data_file}", "data file")
    return header


# -- kernel, initrd, seed ----------------------------------------------------------------------------------------------

_X86 = ("x86_64", "i386")
_KERNELS_OF = {"bzImage": ("i386",), "zImage": ("arm",), "Image": ("aarch64", "riscv64", "riscv32")}
_ELF_MACHINES = {3: "i386", 62: "x86_64", 40: "arm", 183: "aarch64", 20: "ppc", 21: "ppc64", 22: "s390x"}
_MULTIBOOT, _MULTIBOOT_WITHIN = b"\x02\xb0\xad\x1b", 8192  # Multiboot Specification 0.6.96, 3.1.1


def check_kernel_file(path: Path, key: str, architecture: str | None) -> FileKind:
    """Refuse a file that qemu does not boot by -kernel; return its kind.

    Args:
        path: The file.
        key: Its key.
        architecture: Of qemu, as in qemu-system-NAME; None where its name does not tell.

    Raises:
        ImageError: It is no kernel, or one for another machine.
    """
    check_readable(path, key)
    kind = _kind(path, key)
    what = "a kernel (vmlinuz, bzImage, Image, or ELF)"
    is_unpacked = kind.name == "gz" and architecture not in _X86  # hw/core/loader.c, load_image_gzipped
    if kind.family in (Family.empty, Family.disk, Family.archive, Family.page, Family.encrypted):
        raise _refused(path, key, kind, what)
    if kind.family is Family.packed and not is_unpacked:
        raise _refused(path, key, kind, what)
    head = read_head(path)
    if architecture in _X86 and not _is_x86_kernel(kind, head):
        raise _refused(path, key, kind, what)
    _check_machine(path, key, kind, head, architecture)
    needed = _bzimage_bytes(head) if kind.name == "bzImage" else 0
    if needed > size_bytes(path):
        raise ImageError(f"{key}: {path} is a kernel that was cut off: {needed} bytes by its header")
    return kind


def _is_x86_kernel(kind: FileKind, head: bytes) -> bool:
    if kind.family is Family.kernel and kind.name != "pe":
        return True
    return _MULTIBOOT in head[:_MULTIBOOT_WITHIN]


def _check_machine(path: Path, key: str, kind: FileKind, head: bytes, architecture: str | None) -> None:
    machines = _KERNELS_OF.get(kind.name)
    if kind.name == "elf":
        order = ">H" if head[5:6] == b"\2" else "<H"
        known = _ELF_MACHINES.get(_unsigned(order, head, 18))
        machines = (known,) if known else None
    if architecture and machines and not any(runs(architecture, machine) for machine in machines):
        raise ImageError(
            f"{key}: {path} is {kind.words}, for {' or '.join(machines)}, and qemu.binary is of {architecture}",
            hint=f"qemu.binary=qemu-system-{machines[0]} runs it",
        )


def _bzimage_bytes(head: bytes) -> int:
    """Return the least size of a bzImage by its header (Linux: Documentation/arch/x86/boot.rst)."""
    setup_sectors = head[0x1F1] or 4
    return (setup_sectors + 1) * 512 + _unsigned("<I", head, 0x1F4) * 16


def check_initrd_file(path: Path, key: str, kernel: FileKind) -> None:
    """Refuse a file that no kernel of this kind takes as its initrd. Compressed ones are for the kernel to unpack.

    Raises:
        ImageError: It is something else.
    """
    check_readable(path, key)
    kind = _kind(path, key)
    is_archive = kind.family is Family.archive and kind.name != "cpio"
    is_kernel = kind.name in _KERNELS_OF and kernel.name in _KERNELS_OF  # other kernels may take one as a module
    if is_archive or is_kernel or kind.family in (Family.empty, Family.disk, Family.page, Family.encrypted):
        raise _refused(path, key, kind, "an initrd")


def check_firmware_file(path: Path, key: str) -> None:
    """Refuse a file that is no firmware image by its beginning; what firmware is made of has no mark of its own.

    Raises:
        ImageError: It is something else.
    """
    check_readable(path, key)
    kind = _kind(path, key)
    if kind.family in (Family.page, Family.packed, Family.archive, Family.encrypted):
        raise _refused(path, key, kind, "firmware")


def check_seed_file(path: Path, key: str) -> str:
    """Return the format of an image with a cloud-init seed, after checking that cloud-init can find one in it.

    Raises:
        ImageError: It is no ISO 9660 or FAT file system, and no disk with partitions.
    """
    check_readable(path, key)
    head = read_head(path)
    kind = kind_of(head)
    if kind.family is Family.disk:
        _check_image(path, key, kind, DiskUse())
        return kind.name
    is_config_drive = kind.name == "ext" and head[1024 + 120 : 1024 + 128] in _CONFIG_DRIVE
    if not is_config_drive and kind.name not in ("iso9660", "vfat", "gpt", "mbr"):
        raise _no_seed(path, key, kind, head)
    if _needed_bytes(head) > size_bytes(path):
        raise ImageError(f"{key}: {path} was cut off: {kind.words} begins in it, and does not end")
    return "raw"


def _no_seed(path: Path, key: str, kind: FileKind, head: bytes) -> ImageError:
    hint = "name a folder with user-data and meta-data, or an image of one: ISO 9660 or FAT, with the label cidata"
    if head.startswith((b"#cloud-config", b"#!")):
        kind = FileKind("user-data", RAW.family, "user-data itself")
        hint = "put it into a folder as user-data, with a file meta-data beside it, and name the folder"
    return _refused(path, key, kind, "a seed for cloud-init", hint)

"""Inspect a file from outside, so that no guest is started on anything but an intact disk image.

qcow2's header is read here before qemu-img opens the file. An image may name other files, a backing file or a data
file, and qemu-img would open those (qemu's docs/interop/qcow2.txt describes the header).
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import ImageError
from mvpnet.images.disk_image import image_format
from mvpnet.qemu.img import QemuImg, QemuImgError

_HEAD = 36 * 1024  # enough for ISO 9660's first volume descriptor, at 32 KiB
_SECTOR = 512
_QCOW2_HEADER = struct.Struct(">4sIQI4xQ")  # magic, version, backing file's offset and length, size in bytes at 24
_QCOW2_FEATURES_AT, _EXTERNAL_DATA = 72, 1 << 2
# Signatures of a raw disk or file system, as (offset, bytes).
_RAW_MARKS = (
    (510, b"\x55\xaa"),  # a boot sector: MBR, or the protective one of GPT
    (512, b"EFI PART"),
    (4096, b"EFI PART"),  # with 4096-byte sectors
    (32769, b"CD001"),  # ISO 9660
    (1080, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
)
_NO_DISKS = (
    (0, b"\xfd7zXZ\0", "still compressed by xz"),
    (0, b"\x28\xb5\x2f\xfd", "still compressed by zstd"),
    (0, b"\x1f\x8b", "still compressed by gzip"),
    (0, b"BZh", "compressed by bzip2, which is not supported"),
    (0, b"PK\3\4", "a zip archive"),
    (257, b"ustar", "a tar archive"),
)
_ARCHITECTURES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "ppc64le": "ppc64",  # qemu-system-ppc64 runs both
    "ppc64el": "ppc64",
    "ppc64": "ppc64",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "i386": "i386",
    "i686": "i386",
}
_ARCH_IN_NAME = re.compile(rf"(?<![A-Za-z0-9])({'|'.join(_ARCHITECTURES)})(?![A-Za-z0-9])")


@dataclass(frozen=True)
class DiskFacts:
    """Properties found in a disk image."""

    format: str  # as qemu names it
    virtual_bytes: int | None  # the disk's size as the guest sees it; None when only qemu-img could tell
    backing: Path | None  # its backing file, an image in the store


def inspect_disk(
    path: Path, said_format: str | None, store_root: Path, what: str, qemu_img: QemuImg | None
) -> DiskFacts:
    """Inspect a file that should be a disk image.

    Args:
        path: The file.
        said_format: image.format.
        store_root: Folder of the store.
        what: Name of the image for messages.
        qemu_img: Checks the image. Without it, as on a login node, only the first bytes are checked.

    Raises:
        ImageError: The file is no disk image, is damaged, or needs files from outside the store.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    found = image_format(path, "image.source")
    if said_format not in (None, found) and said_format != "raw":
        raise ImageError(f"image.format: {what} is not {said_format}; by its first bytes it is {found}")
    if found == "raw" or said_format == "raw":
        return _inspect_raw(path, head, said_format, what)
    if found == "vmdk" and head.startswith(b"# Disk DescriptorFile"):
        raise ImageError(f"image.source: {what} only names other files that hold the disk; the store takes whole disks")
    virtual_bytes, backing = None, None
    if found == "qcow2":
        virtual_bytes, backing_name = _qcow2_header(path, head, what)
        backing = _in_store(backing_name, store_root, what)
    if qemu_img and qemu_img.is_installed:
        virtual_bytes = _checked_by(qemu_img, path, found, what, allow_backing=backing is not None)
    return DiskFacts(found, virtual_bytes, backing)


def _inspect_raw(path: Path, head: bytes, said_format: str | None, what: str) -> DiskFacts:
    size = path.stat().st_size
    if said_format != "raw":
        _refuse_no_disk(head, size, what)
    if size == 0:
        raise ImageError(f"image.source: {what} is empty")
    return DiskFacts("raw", size, None)


def _refuse_no_disk(head: bytes, size: int, what: str) -> None:
    hint = "image.format=raw takes it as a raw disk all the same"
    if head.lstrip()[:1] == b"<" and re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise ImageError(
            f"image.source: {what} is a web page, not a disk image", hint="is it the address of the file itself?"
        )
    if kind := next((kind for at, mark, kind in _NO_DISKS if head[at : at + len(mark)] == mark), None):
        raise ImageError(f"image.source: {what} is {kind}, not a disk image")
    if not any(head[at : at + len(mark)] == mark for at, mark in _RAW_MARKS):
        raise ImageError(
            f"image.source: {what} is not a disk image: of no known format, and without a boot sector, a partition "
            "table or a file system",
            hint=hint,
        )
    if size % _SECTOR:
        raise ImageError(
            f"image.source: {what} has {size} bytes, which are no whole sectors of {_SECTOR}: it was cut off", hint=hint
        )


def _qcow2_header(path: Path, head: bytes, what: str) -> tuple[int, str | None]:
    """Return the virtual size in bytes and the backing file's name. Raises ImageError for an invalid header."""
    if len(head) < _QCOW2_HEADER.size + 40:
        raise ImageError(f"image.source: {what} is a qcow2 image that was cut off")
    _, version, backing_at, backing_length, size = _QCOW2_HEADER.unpack_from(head)
    if version >= 3:
        (features,) = struct.unpack_from(">Q", head, _QCOW2_FEATURES_AT)
        if features & _EXTERNAL_DATA:
            raise ImageError(f"image.source: {what} keeps its data in another file; the store takes whole disks")
    if not backing_at:
        return size, None
    with path.open("rb") as file:
        file.seek(backing_at)
        return size, os.fsdecode(file.read(min(backing_length, 1023)))  # the most that qcow2 allows


def _in_store(backing_name: str | None, store_root: Path, what: str) -> Path | None:
    """Return the backing file, which has to be an image of the store: any other may not be opened or kept."""
    if backing_name is None:
        return None
    path = Path(backing_name.removeprefix("file:"))
    inside = path.is_absolute() and path.resolve().is_relative_to(store_root.resolve()) and path.name == "disk"
    if not inside or not path.is_file():
        raise ImageError(
            f"image.source: {what} is an overlay of {backing_name}, which is not in the image store {store_root}",
            hint="make a whole image of it where its backing file is: qemu-img convert -O qcow2 OVERLAY WHOLE",
        )
    return path


def _checked_by(qemu_img: QemuImg, path: Path, format_name: str, what: str, *, allow_backing: bool) -> int:
    """Check an image by qemu-img; return its virtual size in bytes."""
    try:
        facts = qemu_img.info(path, format_name)
    except QemuImgError as error:
        raise ImageError(f"image.source: {what} cannot be opened as {format_name}: {error.message}") from error
    if facts.backing_as_written is not None and not allow_backing:
        raise ImageError(
            f"image.source: {what} is an overlay of {facts.backing_as_written}; the store takes whole disks"
        )
    if damage := qemu_img.damage(path, format_name):
        raise ImageError(f"image.source: {what} is a damaged {format_name} image: {damage}")
    return facts.virtual_bytes


def architecture(name: str) -> str:
    """Return an architecture's name as in qemu-system-NAME."""
    return _ARCHITECTURES.get(name.lower(), name)


def architecture_in_name(file_name: str) -> str | None:
    """Return the architecture in a file's name, as most vendors put it there; None without one."""
    found = {architecture(match) for match in _ARCH_IN_NAME.findall(file_name)}
    return found.pop() if len(found) == 1 else None

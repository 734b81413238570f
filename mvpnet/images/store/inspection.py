"""Inspect a file from outside, so that no guest is started on anything but an intact disk image.

qcow2's header is read here before qemu-img opens the file. An image may name other files, a backing file or a data
file, and qemu-img would open those (qemu's docs/interop/qcow2.txt describes the header).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import ImageError
from mvpnet.images.disk_image import image_format
from mvpnet.images.file_kind import Family, FileKind, kind_of, read_head
from mvpnet.images.qcow2 import Qcow2Error, Qcow2Header, check_whole, read_header
from mvpnet.qemu.img import QemuImg, QemuImgError

_SECTOR = 512
_AS_RAW = "image.format=raw takes it as a raw disk all the same"
UNPACKED = ("xz", "zstd", "gz")  # kinds of packed files that the store unpacks


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
    head = read_head(path)
    found = image_format(path, "image.source")
    if said_format not in (None, found) and said_format != "raw":
        raise ImageError(f"image.format: {what} is not {said_format}; by its first bytes it is {found}")
    if found == "raw" or said_format == "raw":
        return _inspect_raw(path, head, said_format, what)
    if found == "vmdk" and head.startswith(b"# Disk DescriptorFile"):
        raise ImageError(f"image.source: {what} only names other files that hold the disk; the store takes whole disks")
    virtual_bytes, backing = None, None
    if found == "qcow2":
        header = _qcow2_header(path, what)
        virtual_bytes, backing = header.virtual_bytes, _in_store(header.backing, store_root, what)
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
    check_disk_kind(kind_of(head), what)
    if size % _SECTOR:
        raise ImageError(
            f"image.source: {what} has {size} bytes, which are no whole sectors of {_SECTOR}: it was cut off",
            hint=_AS_RAW,
        )


def check_disk_kind(kind: FileKind, what: str) -> None:
    """Refuse what the store takes for no raw disk, by its beginning. Raises ImageError."""
    if kind.family is Family.file_system:
        return
    if kind.family is Family.empty:
        raise ImageError(f"image.source: {what} is empty", hint=kind.todo)
    if kind.family is Family.unknown:
        raise ImageError(
            f"image.source: {what} is not a disk image: of no known format, and without a boot sector, a partition "
            "table or a file system",
            hint=_AS_RAW,
        )
    still = "still " if kind.name in UNPACKED else ""
    todo = f"{kind.todo.format(path=what)}; or " if kind.todo else ""
    raise ImageError(f"image.source: {what} is {still}{kind.words}, not a disk image", hint=f"{todo}{_AS_RAW}")


def _qcow2_header(path: Path, what: str) -> Qcow2Header:
    """Return the header. Raises ImageError for an invalid one, and for an image that is of no use by itself."""
    try:
        header = read_header(path)
        check_whole(path, header)
    except Qcow2Error as error:
        raise ImageError(f"image.source: {what} is a qcow2 image {error}") from error
    if header.has_data_file:
        raise ImageError(f"image.source: {what} keeps its data in another file; the store takes whole disks")
    return header


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

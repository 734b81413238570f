"""Read the header of a qcow2 image, and tell whether the file was cut off (docs/interop/qcow2.txt of qemu).

Only headers are read, and all tables only where those give rise to doubt: so this is fit for every start of a job.
qemu-img is not needed, and no file that the image names is opened.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# magic, version, backing file's offset and length, cluster bits, size, encryption, L1 entries and offset, refcount
# table's offset and clusters
_HEADER = struct.Struct(">4sIQIIQIIQQI")
_FEATURES = struct.Struct(">72xQ16xI")  # incompatible features; refcount order at 96
_LENGTH_AT = 100  # of the header's length
_V2_BYTES, _FIRST_BYTES = 72, 512
_CLUSTER_BITS_AT = 20
_EXTERNAL_DATA, _EXTENDED_L2 = 1 << 2, 1 << 4
_BACKING_FORMAT, _DATA_FILE = 0xE2792ACA, 0x44415441  # header extensions
_OFFSET = 0x00FFFFFFFFFFFE00  # bits 9 to 55 of L1 and L2 entries
_COMPRESSED, _ALL_ZEROS = 1 << 62, 1
_LONGEST_NAME = 1023  # of a backing file
_MOST_TABLE_BYTES = 32 * 2**20  # an L1 table, and a refcount table, has at most so many


class Qcow2Error(ValueError):
    """The file is no whole qcow2 image. The message follows "is a qcow2 image"."""


@dataclass(frozen=True)
class Qcow2Header:
    """What the header says, as far as it is needed here."""

    virtual_bytes: int
    backing: str | None  # the backing file, as written
    backing_format: str | None
    has_data_file: bool
    data_file: str | None  # as written
    encryption: int  # 0 none, 1 AES, 2 LUKS
    cluster_bits: int
    l1_entries: int
    l1_at: int
    refcount_table_at: int
    refcount_clusters: int
    refcount_bits: int
    l2_entry_bytes: int


def read_header(path: Path) -> Qcow2Header:
    """Return the header of a qcow2 image.

    Raises:
        Qcow2Error: It is cut off, or of values that qemu does not take.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_FIRST_BYTES)
        if len(head) < _V2_BYTES:
            raise Qcow2Error(f"that was cut off: it has {len(head)} bytes, less than a header")
        (bits,) = struct.unpack_from(">I", head, _CLUSTER_BITS_AT)
        if not 9 <= bits <= 21:
            raise Qcow2Error("with a damaged header")
        head += file.read((1 << bits) - _FIRST_BYTES)  # all that belongs to the header is in the first cluster
    return _parsed(head)


def _parsed(head: bytes) -> Qcow2Header:
    _, version, name_at, name_bytes, bits, size, crypt, l1_entries, l1_at, table_at, table = _HEADER.unpack_from(head)
    features, refcount_order, header_bytes = 0, 4, _V2_BYTES
    if version >= 3:
        if len(head) < _LENGTH_AT + 4:
            raise Qcow2Error(f"that was cut off: it has {len(head)} bytes, less than a header")
        features, refcount_order = _FEATURES.unpack_from(head)
        (header_bytes,) = struct.unpack_from(">I", head, _LENGTH_AT)
    if refcount_order > 6:
        raise Qcow2Error("with a damaged header")
    if max(header_bytes, name_at + name_bytes) > len(head):
        raise Qcow2Error(f"that was cut off: it has {len(head)} bytes, less than its header")
    extensions = dict(_extensions(head[: name_at or 1 << bits], header_bytes))
    return Qcow2Header(
        virtual_bytes=size,
        backing=os.fsdecode(head[name_at : name_at + min(name_bytes, _LONGEST_NAME)]) if name_at else None,
        backing_format=_text(extensions.get(_BACKING_FORMAT)),
        has_data_file=bool(features & _EXTERNAL_DATA),
        data_file=_text(extensions.get(_DATA_FILE)),
        encryption=crypt,
        cluster_bits=bits,
        l1_entries=l1_entries,
        l1_at=l1_at,
        refcount_table_at=table_at,
        refcount_clusters=table,
        refcount_bits=1 << refcount_order,
        l2_entry_bytes=16 if features & _EXTENDED_L2 else 8,
    )


def _extensions(head: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            return
        yield kind, head[at + 8 : at + 8 + length]
        at += 8 + (length + 7) // 8 * 8


def _text(value: bytes | None) -> str | None:
    return os.fsdecode(value) if value else None


def check_whole(path: Path, header: Qcow2Header) -> None:
    """Check that the file has all clusters that its tables name.

    The last cluster in use is found by the reference counts, in two or three reads. Only if the file ends before it are
    all tables read: counts may be wrong for clusters that nothing uses, as after a crash.

    Raises:
        Qcow2Error: The file ends before a cluster.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tables_end = max(
            header.l1_at + 8 * header.l1_entries,
            header.refcount_table_at + (header.refcount_clusters << header.cluster_bits),
        )
        if tables_end > size or _last_counted(file, header, size) >= size:
            needed = tables_end if tables_end > size else _last_used(file, header, size)
            if needed >= size:
                raise Qcow2Error(f"that was cut off: it has {size} bytes, and data at {needed} and beyond")


def _last_counted(file: BinaryIO, header: Qcow2Header, size: int) -> int:
    """Return the offset of the last cluster that is counted as used, or of a block of counts beyond the end."""
    cluster = 1 << header.cluster_bits
    counts_per_block = cluster * 8 // header.refcount_bits
    blocks = _table(file, header.refcount_table_at, min(header.refcount_clusters * cluster, _MOST_TABLE_BYTES))
    for index in reversed(range(len(blocks))):
        if block := blocks[index] & _OFFSET:
            if block >= size:
                return block
            file.seek(block)
            if used := file.read(cluster).rstrip(b"\0"):
                last = (len(used) * 8 - 1) // header.refcount_bits
                return (index * counts_per_block + last) * cluster
    return 0


def _last_used(file: BinaryIO, header: Qcow2Header, size: int) -> int:
    """Return the offset of the last cluster that the tables name, without those that are read as zeros."""
    last = max((entry & _OFFSET for entry in _refcount_blocks(file, header)), default=0)
    for entry in _table(file, header.l1_at, min(8 * header.l1_entries, _MOST_TABLE_BYTES)):
        table_at = entry & _OFFSET
        last = max(last, table_at)
        if table_at and table_at < size and not header.has_data_file:
            last = max(last, _last_data(file, header, table_at))
    return last


def _refcount_blocks(file: BinaryIO, header: Qcow2Header) -> tuple[int, ...]:
    table_bytes = header.refcount_clusters << header.cluster_bits
    return _table(file, header.refcount_table_at, min(table_bytes, _MOST_TABLE_BYTES))


def _last_data(file: BinaryIO, header: Qcow2Header, table_at: int) -> int:
    entries = _table(file, table_at, 1 << header.cluster_bits)[:: header.l2_entry_bytes // 8]
    compressed_at = (1 << (62 - (header.cluster_bits - 8))) - 1
    found = (
        entry & compressed_at if entry & _COMPRESSED else entry & _OFFSET
        for entry in entries
        if entry & _COMPRESSED or not entry & _ALL_ZEROS
    )
    return max(found, default=0)


def _table(file: BinaryIO, at: int, size_bytes: int) -> tuple[int, ...]:
    file.seek(at)
    data = file.read(size_bytes)
    return struct.unpack(f">{len(data) // 8}Q", data[: len(data) // 8 * 8])

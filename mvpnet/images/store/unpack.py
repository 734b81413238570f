"""Unpack xz, zstd and gzip, leaving holes for zeros, so that a mostly empty raw image takes little disk space."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mvpnet.errors import ImageError
from mvpnet.images.file_kind import kind_of_file
from mvpnet.images.store.inspection import UNPACKED
from mvpnet.spec.schema import Compression
from mvpnet.util.zstd import open_zstd, zstd_error

_CHUNK = 2**20
_HOLE = 64 * 1024  # smallest run of zeros that becomes a hole


def compression_of(path: Path) -> Compression:
    """Detect a file's compression by its first bytes."""
    name = kind_of_file(path).name
    return Compression[name] if name in UNPACKED else Compression.none


def unpack(packed: Path, how: Compression, disk: Path, what: str, advance: Callable[[int], None]) -> str:
    """Unpack into the new file `disk`; return the SHA-256 of the result.

    Args:
        packed: The packed file.
        how: Its compression.
        disk: The file to create.
        what: Name of the image for messages.
        advance: Called with the number of bytes of `packed` as they are read.

    Raises:
        ImageError: The data cannot be unpacked.
        OSError: The disk is full.
    """
    digest = hashlib.sha256()
    try:
        with packed.open("rb") as file, disk.open("wb") as out, open_packed(file, how) as reader:
            told = 0
            while data := reader.read(_CHUNK):
                digest.update(data)
                _write_sparse(out, data)
                advance(file.tell() - told)
                told = file.tell()
            out.truncate(out.tell())
    except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError, zstd_error()) as error:
        raise ImageError(
            f"image.source: {what} cannot be unpacked as {how.name}: {error}",
            hint="it was cut off, or image.compression is wrong",
        ) from error
    return digest.hexdigest()


def open_packed(file: IO[bytes], how: Compression) -> IO[bytes] | lzma.LZMAFile | gzip.GzipFile:
    """Return a reader with read(bytes). All three read concatenated streams, and raise EOFError for a truncated one."""
    if how is Compression.xz:
        return lzma.open(file, format=lzma.FORMAT_XZ)
    if how is Compression.gz:
        return gzip.open(file)
    return open_zstd(file)


def _write_sparse(out: IO[bytes], data: bytes) -> None:
    for at in range(0, len(data), _HOLE):
        piece = data[at : at + _HOLE]
        if piece.count(0) == len(piece):
            out.seek(len(piece), os.SEEK_CUR)
        else:
            out.write(piece)

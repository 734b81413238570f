"""Look at a source that is a file, before anything is copied into the store."""

from __future__ import annotations

import gzip
import lzma
import zlib
from pathlib import Path

from mvpnet.errors import ImageError
from mvpnet.images.disk_image import check_readable
from mvpnet.images.file_check import size_bytes
from mvpnet.images.file_kind import HEAD_BYTES, Family, kind_of, kind_of_file
from mvpnet.images.store.inspection import UNPACKED, check_disk_kind, inspect_disk
from mvpnet.images.store.request import ImageRequest
from mvpnet.images.store.unpack import open_packed
from mvpnet.spec.schema import Compression
from mvpnet.util.zstd import zstd_error

_XZ_END, _XZ_PADDING = b"YZ", 64  # the .xz file format, 2.1.2.4 and 2.2


def check_source(want: ImageRequest) -> None:
    """Refuse a source on this host that the store would refuse, as far as its beginning tells.

    Raises:
        ImageError: It is not there, is no disk image, or was cut off.
    """
    if want.local_checksums:
        check_readable(want.local_checksums, "image.checksums")
    path = want.local_path
    if path is None:
        return
    check_readable(path, "image.source")
    try:
        how = _compression(path, want.compression)
        if how is Compression.none:
            inspect_disk(path, want.format, want.root, str(path), None)
        else:
            _check_packed(path, how, want.format)
    except OSError as error:
        raise ImageError(f"image.source: {path} cannot be read: {error.strerror}") from error


def _compression(path: Path, said: Compression) -> Compression:
    kind = kind_of_file(path)
    found = Compression[kind.name] if kind.name in UNPACKED else Compression.none
    if said not in (Compression.auto, Compression.none, found):
        raise ImageError(
            f"image.compression: {path} is {kind.words}, not compressed by {said.name}",
            hint="leave image.compression out",
        )
    return found if said is Compression.auto else said


def _check_packed(path: Path, how: Compression, said_format: str | None) -> None:
    """Check what is packed, by its beginning, and that a file of xz has its end."""
    if how is Compression.xz and not _has_end_of_xz(path):
        raise ImageError(f"image.source: {path} is compressed by xz, and was cut off: it has no end")
    try:
        with path.open("rb") as file, open_packed(file, how) as reader:
            kind = kind_of(reader.read(HEAD_BYTES))
    except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError, zstd_error()) as error:
        raise ImageError(
            f"image.source: {path} cannot be unpacked as {how.name}: {error}", hint="it was cut off"
        ) from error
    if kind.family is not Family.disk and said_format != "raw":
        check_disk_kind(kind, f"what is packed in {path}")


def _has_end_of_xz(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, size_bytes(path) - _XZ_PADDING))
        return file.read().rstrip(b"\0").endswith(_XZ_END)

"""Fetch an image into the store: receive, check its digest, unpack, inspect, and only then publish it.

The expected digest of a source is taken from the first of these: image.sha256; the lock file; the last result from the
source in the store; the vendor's checksum file; the received file (trust on first use, which is reported).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mvpnet.errors import HostError, ImageError
from mvpnet.images.disk_image import check_readable, copy_image
from mvpnet.images.store.checksums import Published, checksums_text, published_digest
from mvpnet.images.store.http import download, download_small
from mvpnet.images.store.inspection import inspect_disk
from mvpnet.images.store.progress import Meter, default_meter
from mvpnet.images.store.request import ImageRequest
from mvpnet.images.store.sources import SourceRecord
from mvpnet.images.store.store import StoredImage
from mvpnet.images.store.unpack import compression_of, unpack
from mvpnet.qemu.img import QemuImg
from mvpnet.spec.schema import Compression
from mvpnet.spec.urls import address
from mvpnet.util.files import file_digest
from mvpnet.util.text import Say, size_text, timestamp

_NEW_HINT = (
    "was it changed on the way, or has the vendor published a new one under this URL? "
    "mvpnet image lock --update pins the new one"
)
_CHANGED_HINT = "it was changed on the way, or the vendor is just publishing a new one: try again later"
_UNCHECKED = {
    False: "checked by nothing: taken on first use; mvpnet image lock or image.sha256 pins it",
    True: "a local file, checked by nothing",
}
_STORE_HINT = "mvpnet image prune frees some, or choose another folder by image.cache_dir"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def find(want: ImageRequest) -> StoredImage | None:
    """Return the image, if it is in the store: by its digest where that is pinned, else by its source's last result."""
    if want.sha256:
        return want.store.find(want.sha256)
    record = want.store.source(want.address)
    if record is None or not _is_unchanged(want, record):
        return None
    return want.store.find(record.sha256)


def ensure(want: ImageRequest, say: Say, *, refresh: bool = False, meter: Meter | None = None) -> StoredImage:
    """Return the image, fetched first if it is not in the store. Any number of processes may call this at once.

    Args:
        want: The image.
        say: Called with a line of text at each step.
        refresh: Fetch again from the source even if it has given something before.
        meter: Shows the progress of long steps.

    Raises:
        HostError: The store cannot be written.
        ImageError: The image cannot be fetched, or is not as expected; the store is unchanged then.
    """
    refresh = refresh and want.sha256 is None  # a pinned image cannot have changed
    if not refresh and (image := find(want)):
        return image
    if want.is_prepared:
        raise not_prepared(want)
    with want.store.transfers.locked(want.address, want.name, say):
        if not refresh and (image := find(want)):
            return image
        try:
            return _fetch(want, say, meter or default_meter(say))
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise ImageError(
                    f"image.cache_dir: no space left in {want.root} for {want.name}",
                    hint=_STORE_HINT,
                ) from error
            raise HostError(f"image.cache_dir: {error}") from error


def not_prepared(want: ImageRequest) -> ImageError:
    """Return the error for a request of an image that has to be prepared first."""
    which = f" with the digest {want.sha256}" if want.sha256 else ""
    return ImageError(
        f"image.prepare: {want.name}{which} is not in {want.root}",
        hint="mvpnet image prepare, with the same arguments, makes it; on several hosts, in a shared image.cache_dir",
    )


def _is_unchanged(want: ImageRequest, record: SourceRecord) -> bool:
    """Return whether a local source is unchanged since it was stored. A server is not asked here."""
    if want.local_path is None:
        return True
    try:
        return (record.file_bytes, record.file_mtime_ns) == _file_stamp(want.local_path)
    except OSError:
        return False


def _file_stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _fetch(want: ImageRequest, say: Say, meter: Meter) -> StoredImage:
    store = want.store
    published = _published(want, say)
    if published and published.algorithm == "sha256":
        if want.sha256 not in (None, published.digest):
            raise _moved_on(want, published)
        if image := store.find(published.digest):
            say(f"{want.name}: {image.sha256[:12]} is what {address(want.checksums or '')} lists, and is here already")
            store.source_records.remember(_record(want, image.sha256))
            return image
    part, record = _received(want, say, meter, proven=bool(want.sha256 or published))
    digest = file_digest(part, "sha256")
    checked_by = _check_digest(want, published, part, digest)
    with store.transfers.staging(want.address) as staging:
        image = store.publish(staging, _made_ready(want, part, staging / "disk", digest, checked_by, meter))
    store.transfers.discard_part(want.address)
    store.source_records.remember(replace(record, sha256=image.sha256))
    say(_arrival(want, image, checked_by))
    return image


def _arrival(want: ImageRequest, image: StoredImage, checked_by: str) -> str:
    trust = f"checked by {checked_by}" if checked_by else _UNCHECKED[want.local_path is not None]
    return f"{want.name}: sha256 {image.sha256}, {size_text(image.size_bytes)}, {trust}"


def _published(want: ImageRequest, say: Say) -> Published | None:
    """Return the digest in the vendor's checksum file.

    Raises:
        ImageError: The checksum file cannot be fetched, and the image is not pinned.
    """
    if want.checksums is None:
        return None
    try:
        return published_digest(_text_of(want.checksums), want.name, address(want.checksums))
    except ImageError as error:
        if want.sha256 is None:
            raise
        say(f"warning: {error.message}; {want.pinned_by} pins the image, and is enough")
        return None


def _text_of(source: str) -> str:
    if "://" in source and not source.startswith("file://"):
        return checksums_text(download_small(source))
    path = Path(unquote(urlsplit(source).path)) if "://" in source else Path(source)
    check_readable(path, "image.checksums")
    return checksums_text(path.read_bytes())


def _received(want: ImageRequest, say: Say, meter: Meter, *, proven: bool) -> tuple[Path, SourceRecord]:
    """Receive the whole file from the source, unchecked, and a record of its origin."""
    part = want.store.transfers.part(want.address)
    if want.local_path is None:
        say(f"fetching {want.address}")
        download(want.url, part, meter, proven=proven, expected_bytes=want.size_bytes)
        return part, _record(want, "")
    check_readable(want.local_path, "image.source")
    record = _record(want, "")  # before the copy, so that a file that changes meanwhile counts as another one next time
    try:
        copy_image(want.local_path, part, "image.source", say)
    except ImageError as error:
        raise ImageError(error.message, hint=_STORE_HINT if error.hint else None) from error
    return part, record


def _record(want: ImageRequest, sha256: str) -> SourceRecord:
    stamp: Mapping[str, Any] = {}
    if want.local_path is not None:
        size, mtime_ns = _file_stamp(want.local_path)
        stamp = {"file_bytes": size, "file_mtime_ns": mtime_ns}
    return SourceRecord(want.address, sha256, timestamp(), **stamp)


def _check_digest(want: ImageRequest, published: Published | None, part: Path, digest: str) -> str:
    """Check the digest; return what it was compared with, "" for nothing.

    Raises:
        ImageError: The digest is wrong; the file is quarantined.
    """
    if want.sha256:
        should, said_by, hint = Published("sha256", want.sha256), want.pinned_by, _NEW_HINT
    elif published:
        should, said_by, hint = published, address(want.checksums or ""), _CHANGED_HINT
    else:
        return ""
    got = digest if should.algorithm == "sha256" else file_digest(part, should.algorithm)
    if got != should.digest:
        aside = _put_aside(want, part)
        raise ImageError(
            f"{want.address} has not the {should.algorithm} digest that {said_by} says\n"
            f"  should be: {should.digest}\n  is:        {got}\n  put aside: {aside}",
            hint=hint,
        )
    return said_by


def _moved_on(want: ImageRequest, published: Published) -> ImageError:
    return ImageError(
        f"{want.address} is not what {want.pinned_by} pins any more: the vendor publishes another image there\n"
        f"  pinned:    {want.sha256}\n  published: {published.digest}",
        hint="mvpnet image lock --update pins the new one; for the old one, image.source is its dated URL or a copy, "
        "and mvpnet image import puts a copy into the store",
    )


def _made_ready(
    want: ImageRequest, part: Path, disk: Path, digest: str, checked_by: str, meter: Meter
) -> dict[str, Any]:
    """Unpack the part into `disk` and inspect it; return the content of image.json.

    Raises:
        ImageError: It is no usable image; the file is quarantined.
    """
    size = part.stat().st_size
    how = compression_of(part) if want.compression is Compression.auto else want.compression
    try:
        if how is Compression.none:
            facts = inspect_disk(part, want.format, want.root, want.name, QemuImg())
            part.rename(disk)
            disk_digest = digest
        else:
            with meter(f"unpacking {want.name}", size, 0) as advance:
                disk_digest = unpack(part, how, disk, want.name, advance)
            facts = inspect_disk(disk, want.format, want.root, want.name, QemuImg())
    except ImageError as error:
        aside = _put_aside(want, part)
        raise error.with_message(f"{error.message}\n  put aside: {aside}") from error
    return {
        "sha256": digest,
        "size_bytes": size,
        "format": facts.format,
        "virtual_bytes": facts.virtual_bytes,
        "disk_sha256": disk_digest,
        "disk_bytes": disk.stat().st_size,
        "compression": how.name,
        "source": want.address,
        "fetched_at": timestamp(),
        "checked_by": checked_by or "nothing",
        "backing": facts.backing.parent.name if facts.backing else None,
    }


def _put_aside(want: ImageRequest, part: Path) -> Path:
    aside = want.store.quarantine(part, want.name)
    want.store.transfers.discard_part(want.address)
    return aside

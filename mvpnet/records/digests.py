"""Digests of files, remembered: a large image is read once, not once a job.

    CACHE/digests/<of the path>.json    the digest of a file that had this size, time of change and inode

CACHE is image.cache_dir. A file that changed less than two seconds before it was read is not remembered: a later change
might leave it the same time. The store's images need no reading: their digest stands beside them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mvpnet.images.store.lock_file import SHA256
from mvpnet.util.files import write_whole

_CHUNK_BYTES = 4 * 2**20
_SETTLED_S = 2.0  # the coarsest time stamp of a file system in use: FAT's


@dataclass(frozen=True)
class Mark:
    """What tells a file that changed from one that did not, without reading it. Of a folder: of all that is in it."""

    size_bytes: int
    mtime_ns: int
    inode: int


def mark(path: Path) -> Mark | None:
    """None where there is nothing, or nothing that may be looked at."""
    try:
        facts = path.stat()
        if not path.is_dir():
            size = _device_bytes(path) if path.is_block_device() else facts.st_size
            return Mark(size, facts.st_mtime_ns, facts.st_ino)
        within = [file.stat() for file in _files(path)]
    except OSError:
        return None
    newest = max([0, *(one.st_mtime_ns for one in within)])
    return Mark(sum(one.st_size for one in within), newest, facts.st_ino)


def _device_bytes(path: Path) -> int:
    with path.open("rb") as device:
        return device.seek(0, os.SEEK_END)


def _files(folder: Path) -> list[Path]:
    """All files below a folder, but for what Python compiled of them."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")


class OutOfTimeError(Exception):
    """The digest was not done when it had to be."""


def sha256(path: Path, go_on: Callable[[], bool] = lambda: True) -> str:
    """SHA-256 of a file; of a folder, over its files' names and digests. Raises OSError.

    `go_on` is asked every 4 MiB; OutOfTimeError is raised when it says no.
    """
    if path.is_dir():
        lines = (f"{sha256(file, go_on)}  {file.relative_to(path)}\n" for file in _files(path))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for piece in _pieces(file.readinto):
            if not go_on():
                raise OutOfTimeError
            digest.update(piece)
    return digest.hexdigest()


def _pieces(readinto: Callable[[bytearray], int | None]) -> Iterator[memoryview]:
    buffer = bytearray(_CHUNK_BYTES)
    while count := readinto(buffer):
        yield memoryview(buffer)[:count]


def of_stored_image(path: Path) -> str | None:
    """The digest that the image store keeps for this path; None for a path that is not in a store."""
    if path.name != "disk" or not SHA256.fullmatch(path.parent.name):
        return None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads((path.parent / "image.json").read_text())["disk_sha256"])
    return None


class Remembered:
    """The digests in one cache folder."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "digests"

    def find(self, path: Path, seen: Mark) -> str | None:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            kept = json.loads(self._file(path).read_text())
            if Mark(kept["size_bytes"], kept["mtime_ns"], kept["inode"]) == seen and SHA256.fullmatch(kept["sha256"]):
                return str(kept["sha256"])
        return None

    def keep(self, path: Path, seen: Mark, digest: str) -> None:
        """Remember it, if the cache can be written: it is no loss if not."""
        if time.time() - seen.mtime_ns / 1e9 < _SETTLED_S:
            return
        entry = {"path": str(path), **vars(seen), "sha256": digest}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._file(path), json.dumps(entry) + "\n")

    def _file(self, path: Path) -> Path:
        return self._folder / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"

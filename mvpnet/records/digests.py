"""Digests of files with a cache, so that a large image is read once and not once per job.

    CACHE/digests/<of the path>.json    digest of a file, with its size, time of change and inode at that time

CACHE is image.cache_dir. The digest of a file that changed less than two seconds ago is not cached: a later change
might leave it the same time. Images of the store need not be read: their digest is stored beside them.
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
from mvpnet.util.encoding import encoded
from mvpnet.util.files import write_whole

_CHUNK_BYTES = 4 * 2**20
_SETTLED_S = 2.0  # resolution of time stamps on FAT, the coarsest in use


@dataclass(frozen=True)
class Mark:
    """Properties that show whether a file changed, without reading it; for a folder, those of all files in it."""

    size_bytes: int
    mtime_ns: int
    inode: int


def mark(path: Path) -> Mark | None:
    """Return the mark of a file or folder; None if it does not exist or cannot be read."""
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
    """Return all files below a folder, without Python's compiled ones."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")


class OutOfTimeError(Exception):
    """A digest was not finished within its time limit."""


def sha256(path: Path, go_on: Callable[[], bool] = lambda: True) -> str:
    """Return the SHA-256 of a file; for a folder, of the names and digests of its files.

    Args:
        path: The file or folder.
        go_on: Called every 4 MiB; False stops the work.

    Raises:
        OSError: The file cannot be read.
        OutOfTimeError: `go_on` returned False.
    """
    if path.is_dir():
        lines = (f"{sha256(file, go_on)}  {file.relative_to(path)}\n" for file in _files(path))
        return hashlib.sha256(encoded("".join(lines))).hexdigest()
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
    """Return the digest that the image store has for this path; None for a path outside a store."""
    if path.name != "disk" or not SHA256.fullmatch(path.parent.name):
        return None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads((path.parent / "image.json").read_text())["disk_sha256"])
    return None


class Remembered:
    """Cache of digests in one folder."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "digests"

    def find(self, path: Path, seen: Mark) -> str | None:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            kept = json.loads(self._file(path).read_text())
            if Mark(kept["size_bytes"], kept["mtime_ns"], kept["inode"]) == seen and SHA256.fullmatch(kept["sha256"]):
                return str(kept["sha256"])
        return None

    def keep(self, path: Path, seen: Mark, digest: str) -> None:
        """Store a digest; ignore a cache that cannot be written."""
        if time.time() - seen.mtime_ns / 1e9 < _SETTLED_S:
            return
        entry = {"path": str(path), **vars(seen), "sha256": digest}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._file(path), json.dumps(entry) + "\n")

    def _file(self, path: Path) -> Path:
        return self._folder / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"

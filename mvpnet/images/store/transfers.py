"""Manage transfers into the store: one process at a time fetches a URL, into a partial file that outlives it.

STORE/fetching/KEY.part, .json     the beginning of the file, and the version of it on the server
STORE/fetching/KEY.lock            locked by the process that fetches the URL; contains the last failure's error
STORE/.staging-KEY/                an image under construction
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvpnet.errors import HostError, ImageError
from mvpnet.util.files import remove
from mvpnet.util.locks import lock, try_lock
from mvpnet.util.text import Say

STAGING = ".staging-"


class Transfers:
    """Transfers of a store by URL, in progress or broken off."""

    def __init__(self, store_root: Path) -> None:
        self._root = store_root
        self._folder = store_root / "fetching"

    def part(self, url: str) -> Path:
        """Return the path of the partial file. Only for the holder of the URL's lock."""
        return self._folder / f"{key_of(url)}.part"

    def discard_part(self, url: str) -> None:
        self.part(url).unlink(missing_ok=True)
        self.part(url).with_suffix(".json").unlink(missing_ok=True)

    @contextmanager
    def locked(self, url: str, what: str, say: Say) -> Iterator[None]:
        """Lock the URL for this process. A process that waited for a failed one raises the same ImageError.

        So the many ranks of a host do not wait for the same dead server one after another.

        Raises:
            HostError: The folder cannot be written or locked.
            ImageError: The process that held the lock before failed.
        """
        path = self.part(url).with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as error:
            raise HostError(
                f"image.cache_dir: {self._root} cannot be written, and {what} is not in it: {error.strerror}",
                hint="choose another folder by image.cache_dir",
            ) from error
        with file:
            try:
                if not try_lock(file.fileno()):
                    say(f"another process is fetching {what}; waiting for it")
                    waiting_since = os.fstat(file.fileno()).st_mtime_ns
                    lock(file.fileno())
                    _fail_with(path, since_ns=waiting_since)
            except OSError as error:
                raise HostError(
                    f"image.cache_dir: the file system of {self._root} has no locks: {error.strerror}",
                    hint="choose a folder on another one by image.cache_dir",
                ) from error
            try:
                yield
            except ImageError as error:
                path.write_text(json.dumps([error.message, error.hint]))
                raise

    @contextmanager
    def staging(self, url: str) -> Iterator[Path]:
        """Provide an empty folder to build an image in, replacing an old one. Only for the holder of the URL's lock."""
        folder = self._root / f"{STAGING}{key_of(url)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def unfinished(self) -> list[Path]:
        """Return partial files and folders under construction, of living and dead processes."""
        return [
            *sorted(self._folder.glob("*.part")),
            *sorted(self._folder.glob("*.json")),
            *sorted(self._root.glob(f"{STAGING}*")),
        ]

    def remove_unfinished(self, path: Path) -> bool:
        """Remove a result of `unfinished` unless a process works on it; return whether it was removed."""
        key = path.name.removeprefix(STAGING).partition(".")[0]
        try:
            file = (self._folder / f"{key}.lock").open("r+")
        except FileNotFoundError:
            remove(path)
            return True
        with file:
            if alone := try_lock(file.fileno()):
                remove(path)
        return alone


def key_of(url: str) -> str:
    """Return a file name for a URL."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _fail_with(lock: Path, *, since_ns: int) -> None:
    """Raise the ImageError in the lock file, if it was written after `since_ns`."""
    if lock.stat().st_mtime_ns == since_ns:
        return
    message, hint = json.loads(lock.read_text())
    raise ImageError(message, hint=hint)

"""Images on their way into the store: one process at a time fetches a URL, into a part that outlives it.

STORE/fetching/KEY.part, .json     what came so far, and of which version of the file on the server
STORE/fetching/KEY.lock            locked by whoever fetches the URL; holds the error of the last one who failed
STORE/.staging-KEY/                an image in the making
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
    """The fetches of a store, by URL, under way or broken off."""

    def __init__(self, store_root: Path) -> None:
        self._root = store_root
        self._folder = store_root / "fetching"

    def part(self, url: str) -> Path:
        """Where the beginning of a transfer is kept. Only for the holder of the URL's lock."""
        return self._folder / f"{key_of(url)}.part"

    def discard_part(self, url: str) -> None:
        self.part(url).unlink(missing_ok=True)
        self.part(url).with_suffix(".json").unlink(missing_ok=True)

    @contextmanager
    def locked(self, url: str, what: str, say: Say) -> Iterator[None]:
        """Be the only one who fetches this URL; whoever waited for one who failed, fails with the same ImageError.

        So a host's many ranks do not all wait for the same dead server, one after another.
        Raises HostError where the folder cannot be written or locked.
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
        """An empty folder to make an image in. Only for the holder of the URL's lock, who also clears an old one."""
        folder = self._root / f"{STAGING}{key_of(url)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def unfinished(self) -> list[Path]:
        """Parts of fetches and folders in the making, of processes that live or not."""
        return [
            *sorted(self._folder.glob("*.part")),
            *sorted(self._folder.glob("*.json")),
            *sorted(self._root.glob(f"{STAGING}*")),
        ]

    def remove_unfinished(self, path: Path) -> bool:
        """Remove one of `unfinished`, unless a process is at work on it: whether that was done."""
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
    """A URL as a file name."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _fail_with(lock: Path, *, since_ns: int) -> None:
    """Raise the ImageError that was written into the lock file, if it was written after `since_ns`."""
    if lock.stat().st_mtime_ns == since_ns:
        return
    message, hint = json.loads(lock.read_text())
    raise ImageError(message, hint=hint)

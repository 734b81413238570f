"""The image store's folder: what is in it, what is remembered of it, and how it stays whole.

Whoever reads needs no lock, and no right to write: an image appears by one rename, with all its files, and is never
changed. Whoever fetches a URL holds that URL's lock, whoever uses an image holds a shared lock on it, and what is
removed has to be had alone. The locks are flock(2)'s: the kernel lets them go with the process that holds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvpnet.errors import HostError, ImageError
from mvpnet.images.disk_image import to_disk
from mvpnet.images.store.lock_file import SHA256
from mvpnet.util.locks import lock, lock_shared, try_lock
from mvpnet.util.text import Say

STAGING = ".staging-"
_CHUNK = 4 * 2**20


@dataclass(frozen=True)
class StoredImage:
    """An image in the store; all but the folder is what its image.json says."""

    folder: Path
    sha256: str  # of the file as it was fetched, which names the image
    size_bytes: int  # of the file as it was fetched
    format: str  # of the disk, as qemu names it
    virtual_bytes: int | None  # of the disk, as the guest sees it; None when it could not be told
    disk_sha256: str  # of the disk, after unpacking
    disk_bytes: int
    compression: str  # in which it was fetched
    source: str  # URL it was fetched from first
    fetched_at: str  # ISO 8601
    checked_by: str  # what its digest was compared with
    backing: str | None = None  # the image that this one is an overlay of, by sha256
    made_from: dict[str, Any] | None = None  # of a prepared image: what it was made from, and what was done to it

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    def as_dict(self) -> dict[str, Any]:
        return {name: str(value) if name == "folder" else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class SourceRecord:
    """What a URL gave the last time it was fetched. `file_bytes` and `file_mtime_ns` are those of a local file."""

    url: str
    sha256: str
    fetched_at: str
    file_bytes: int | None = None
    file_mtime_ns: int | None = None


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


class Store:
    """The folder of all fetched images. It is made when something is put into it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- what is there -------------------------------------------------------------------------------------------------

    def folder(self, sha256: str) -> Path:
        return self.root / sha256

    def find(self, sha256: str) -> StoredImage | None:
        """The image of this digest, if it is here whole (by its size; `verify` reads it all)."""
        folder = self.folder(sha256)
        try:
            image = StoredImage(folder=folder, **json.loads((folder / "image.json").read_text()))
            whole = image.disk.stat().st_size == image.disk_bytes
        except (OSError, ValueError, TypeError):
            return None
        return image if whole else None

    def images(self) -> list[StoredImage]:
        """All whole images, the oldest first."""
        found = [image for folder in self._digest_folders() if (image := self.find(folder.name))]
        return sorted(found, key=lambda image: (image.fetched_at, image.sha256))

    def broken(self) -> list[Path]:
        """Folders of images that are not whole."""
        return [folder for folder in self._digest_folders() if self.find(folder.name) is None]

    def _digest_folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if SHA256.fullmatch(path.name))

    def by_prefix(self, prefix: str) -> StoredImage:
        """The image whose digest begins so. Raises ImageError when none or several do."""
        found = [image for image in self.images() if image.sha256.startswith(prefix.lower())]
        if len(found) == 1:
            return found[0]
        what = "several images" if found else "no image"
        raise ImageError(
            f"{what} in {self.root} with a digest that begins with {prefix!r}", hint="see mvpnet image list"
        )

    # -- what is remembered of URLs ------------------------------------------------------------------------------------

    def source(self, url: str) -> SourceRecord | None:
        """What the URL gave the last time, if that image is still here."""
        try:
            record = SourceRecord(**json.loads(self._source_path(url).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return record if self.find(record.sha256) else None

    def sources(self) -> list[SourceRecord]:
        records = []
        for path in sorted((self.root / "sources").glob("*.json")):
            try:
                records.append(SourceRecord(**json.loads(path.read_text())))
            except (OSError, ValueError, TypeError):
                continue
        return records

    def remember(self, record: SourceRecord) -> None:
        _write_json(self._source_path(record.url), asdict(record))

    def _forget_sources_of(self, sha256: str) -> None:
        for record in self.sources():
            if record.sha256 == sha256:
                self._source_path(record.url).unlink(missing_ok=True)

    def _source_path(self, url: str) -> Path:
        return self.root / "sources" / f"{_key(url)}.json"

    # -- fetching ------------------------------------------------------------------------------------------------------

    def part(self, url: str) -> Path:
        """Where the beginning of a transfer is kept. Only for the holder of the URL's lock."""
        return self.root / "fetching" / f"{_key(url)}.part"

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
                f"image.cache_dir: {self.root} cannot be written, and {what} is not in it: {error.strerror}",
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
                    f"image.cache_dir: the file system of {self.root} has no locks: {error.strerror}",
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
        folder = self.root / f"{STAGING}{_key(url)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, facts: dict[str, Any]) -> StoredImage:
        """Give the image in the folder `staged` its name: it appears with all its files or not at all."""
        sha256 = facts["sha256"]
        disk = staged / "disk"
        disk.chmod(0o444)
        to_disk(disk)
        _write_json(staged / "image.json", facts)
        for last_try in (False, True):
            try:
                staged.rename(self.folder(sha256))
                break
            except OSError:
                if self.find(sha256):  # another URL gave the same
                    break
                if last_try or not self.folder(sha256).is_dir():
                    raise
                shutil.rmtree(self.folder(sha256))  # one that is not whole
        image = self.find(sha256)
        assert image is not None
        return image

    def quarantine(self, path: Path, name: str) -> Path:
        """Put a file or folder aside that is not what it should be; where it is now."""
        folder = self.root / "quarantine"
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{name}"
        path.rename(aside)
        return aside

    # -- use and removal -----------------------------------------------------------------------------------------------

    @contextmanager
    def in_use(self, image: StoredImage) -> Iterator[None]:
        """Keep the image from being removed meanwhile. Raises FileNotFoundError when it was removed just now."""
        path = image.folder / "image.json"
        with path.open("rb") as record:
            # On a file system without locks nobody can have it alone either, and it is not removed.
            with suppress(OSError):
                lock_shared(record.fileno())
            if not os.path.samestat(path.stat(), os.fstat(record.fileno())):
                raise FileNotFoundError(path)
            yield

    def remove(self, folder: Path) -> bool:
        """Remove an image's folder, unless it is in use: whether that was done."""
        with self._alone(folder) as alone:
            if alone:
                doomed = self.root / f"{STAGING}gone-{folder.name}-{os.getpid()}"
                folder.rename(doomed)
                shutil.rmtree(doomed)
                self._forget_sources_of(folder.name)
        return alone

    def put_aside(self, image: StoredImage) -> Path | None:
        """Put an image that is not whole into quarantine; None when it is in use."""
        with self._alone(image.folder) as alone:
            if not alone:
                return None
            aside = self.quarantine(image.folder, image.sha256)
            self._forget_sources_of(image.sha256)
            return aside

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[bool]:
        try:
            record = (folder / "image.json").open("r+b")
        except FileNotFoundError:  # no image at all
            yield True
            return
        except OSError:  # another user's
            yield False
            return
        with record:
            try:
                alone = try_lock(record.fileno())
            except OSError:
                alone = False
            yield alone

    def remove_aside(self, path: Path) -> bool:
        """Remove what is in quarantine; true, as nobody uses that."""
        remove(path)
        return True

    def quarantined(self) -> list[Path]:
        """What is in quarantine."""
        return sorted((self.root / "quarantine").glob("*"))

    def unfinished(self) -> list[Path]:
        """Parts of fetches and folders in the making, of processes that live or not."""
        return [
            *sorted((self.root / "fetching").glob("*.part")),
            *sorted((self.root / "fetching").glob("*.json")),
            *sorted(self.root.glob(f"{STAGING}*")),
        ]

    def remove_unfinished(self, path: Path) -> bool:
        """Remove one of `unfinished`, unless a process is at work on it: whether that was done."""
        key = path.name.removeprefix(STAGING).partition(".")[0]
        try:
            file = (self.root / "fetching" / f"{key}.lock").open("r+")
        except FileNotFoundError:
            remove(path)
            return True
        with file:
            if alone := try_lock(file.fileno()):
                remove(path)
        return alone

    # -- looking closely -----------------------------------------------------------------------------------------------

    def is_intact(self, image: StoredImage) -> bool:
        """Whether the disk's bytes are those that were put in."""
        return file_digest(image.disk, "sha256") == image.disk_sha256


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _fail_with(lock: Path, *, since_ns: int) -> None:
    """Raise the ImageError that was written into the lock file, if it was written after `since_ns`."""
    if lock.stat().st_mtime_ns == since_ns:
        return
    message, hint = json.loads(lock.read_text())
    raise ImageError(message, hint=hint)


def _key(url: str) -> str:
    """A URL as a file name."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(path)

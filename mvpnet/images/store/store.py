"""Manage the image store's folder: find, publish, quarantine and remove images, consistently.

Readers need no lock, and no permission to write: an image appears by one rename, with all its files, and is never
changed. A process that fetches a URL holds that URL's lock, a process that uses an image holds a shared lock on it, and
removal needs an exclusive one. The locks are flock(2)'s: the kernel releases them when their process ends.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvpnet.errors import ImageError
from mvpnet.images.disk_image import to_disk
from mvpnet.images.store.lock_file import SHA256
from mvpnet.images.store.sources import SourceRecord, SourceRecords
from mvpnet.images.store.transfers import STAGING, Transfers
from mvpnet.util.files import file_digest, remove, write_json
from mvpnet.util.locks import lock_shared, try_lock


@dataclass(frozen=True)
class StoredImage:
    """An image in the store. All fields but the folder come from its image.json."""

    folder: Path
    sha256: str  # of the file as it was fetched; names the image
    size_bytes: int  # of the file as it was fetched
    format: str  # of the disk, as qemu names it
    virtual_bytes: int | None  # of the disk, as the guest sees it; None when unknown
    disk_sha256: str  # of the disk, after unpacking
    disk_bytes: int
    compression: str  # of the file as it was fetched
    source: str  # URL it was fetched from first
    fetched_at: str  # ISO 8601
    checked_by: str  # what its digest was compared with
    backing: str | None = None  # sha256 of its backing file's image
    made_from: dict[str, Any] | None = None  # of a prepared image: its source, and the changes to it

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    def as_dict(self) -> dict[str, Any]:
        return {name: str(value) if name == "folder" else value for name, value in asdict(self).items()}


class Store:
    """Folder of all fetched images. It is created when the first image is published."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.transfers = Transfers(root)
        self.source_records = SourceRecords(root)

    # -- lookup --------------------------------------------------------------------------------------------------------

    def folder(self, sha256: str) -> Path:
        return self.root / sha256

    def find(self, sha256: str) -> StoredImage | None:
        """Return the image of this digest, if it is complete (by its size; `is_intact` reads it all)."""
        folder = self.folder(sha256)
        try:
            image = StoredImage(folder=folder, **json.loads((folder / "image.json").read_text()))
            whole = image.disk.stat().st_size == image.disk_bytes
        except (OSError, ValueError, TypeError):
            return None
        return image if whole else None

    def images(self) -> list[StoredImage]:
        """Return all complete images, the oldest first."""
        found = [image for folder in self._digest_folders() if (image := self.find(folder.name))]
        return sorted(found, key=lambda image: (image.fetched_at, image.sha256))

    def broken(self) -> list[Path]:
        """Return the folders of incomplete images."""
        return [folder for folder in self._digest_folders() if self.find(folder.name) is None]

    def _digest_folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if SHA256.fullmatch(path.name))

    def source(self, url: str) -> SourceRecord | None:
        """Return the last result of the URL, if its image still exists."""
        record = self.source_records.find(url)
        return record if record and self.find(record.sha256) else None

    def by_prefix(self, prefix: str) -> StoredImage:
        """Return the image with this prefix of its digest. Raises ImageError when there are none or several."""
        found = [image for image in self.images() if image.sha256.startswith(prefix.lower())]
        if len(found) == 1:
            return found[0]
        what = "several images" if found else "no image"
        raise ImageError(
            f"{what} in {self.root} with a digest that begins with {prefix!r}", hint="see mvpnet image list"
        )

    # -- publication and quarantine ------------------------------------------------------------------------------------

    def publish(self, staged: Path, facts: dict[str, Any]) -> StoredImage:
        """Rename the folder `staged` to the image's final name, so that it appears complete or not at all."""
        sha256 = facts["sha256"]
        disk = staged / "disk"
        disk.chmod(0o444)
        to_disk(disk)
        write_json(staged / "image.json", facts)
        for last_try in (False, True):
            try:
                staged.rename(self.folder(sha256))
                break
            except OSError:
                if self.find(sha256):  # another URL gave the same image
                    break
                if last_try or not self.folder(sha256).is_dir():
                    raise
                shutil.rmtree(self.folder(sha256))  # an incomplete image
        image = self.find(sha256)
        assert image is not None
        return image

    def quarantine(self, path: Path, name: str) -> Path:
        """Move a rejected file or folder into quarantine; return its new path."""
        folder = self.root / "quarantine"
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{name}"
        path.rename(aside)
        return aside

    def quarantined(self) -> list[Path]:
        """Return the files and folders in quarantine."""
        return sorted((self.root / "quarantine").glob("*"))

    def remove_aside(self, path: Path) -> bool:
        """Remove a file or folder from quarantine. Always true, as nothing uses it."""
        remove(path)
        return True

    # -- use and removal -----------------------------------------------------------------------------------------------

    @contextmanager
    def in_use(self, image: StoredImage) -> Iterator[None]:
        """Keep the image from being removed meanwhile. Raises FileNotFoundError when it has just been removed."""
        path = image.folder / "image.json"
        with path.open("rb") as record:
            # On a file system without locks removal cannot get its exclusive lock either, and the image stays.
            with suppress(OSError):
                lock_shared(record.fileno())
            if not os.path.samestat(path.stat(), os.fstat(record.fileno())):
                raise FileNotFoundError(path)
            yield

    def remove(self, folder: Path) -> bool:
        """Remove an image's folder unless it is in use; return whether it was removed."""
        with self._alone(folder) as alone:
            if alone:
                doomed = self.root / f"{STAGING}gone-{folder.name}-{os.getpid()}"
                folder.rename(doomed)
                shutil.rmtree(doomed)
                self.source_records.forget(folder.name)
        return alone

    def put_aside(self, image: StoredImage) -> Path | None:
        """Move a damaged image into quarantine; None when it is in use."""
        with self._alone(image.folder) as alone:
            if not alone:
                return None
            aside = self.quarantine(image.folder, image.sha256)
            self.source_records.forget(image.sha256)
            return aside

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[bool]:
        try:
            record = (folder / "image.json").open("r+b")
        except FileNotFoundError:  # not an image
            yield True
            return
        except OSError:  # owned by another user
            yield False
            return
        with record:
            try:
                alone = try_lock(record.fileno())
            except OSError:
                alone = False
            yield alone

    def is_intact(self, image: StoredImage) -> bool:
        """Return whether the disk's bytes have their original digest."""
        return file_digest(image.disk, "sha256") == image.disk_sha256

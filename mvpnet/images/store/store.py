"""The image store's folder: what is in it, what is remembered of it, and how it stays whole.

Whoever reads needs no lock, and no right to write: an image appears by one rename, with all its files, and is never
changed. Whoever fetches a URL holds that URL's lock, whoever uses an image holds a shared lock on it, and what is
removed has to be had alone. The locks are flock(2)'s: the kernel lets them go with the process that holds them.
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


class Store:
    """The folder of all fetched images. It is made when something is put into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.transfers = Transfers(root)
        self.source_records = SourceRecords(root)

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

    def source(self, url: str) -> SourceRecord | None:
        """What the URL gave the last time, if that image is still here."""
        record = self.source_records.find(url)
        return record if record and self.find(record.sha256) else None

    def by_prefix(self, prefix: str) -> StoredImage:
        """The image whose digest begins so. Raises ImageError when none or several do."""
        found = [image for image in self.images() if image.sha256.startswith(prefix.lower())]
        if len(found) == 1:
            return found[0]
        what = "several images" if found else "no image"
        raise ImageError(
            f"{what} in {self.root} with a digest that begins with {prefix!r}", hint="see mvpnet image list"
        )

    # -- what goes in, and what is put aside ---------------------------------------------------------------------------

    def publish(self, staged: Path, facts: dict[str, Any]) -> StoredImage:
        """Give the image in the folder `staged` its name: it appears with all its files or not at all."""
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

    def quarantined(self) -> list[Path]:
        """What is in quarantine."""
        return sorted((self.root / "quarantine").glob("*"))

    def remove_aside(self, path: Path) -> bool:
        """Remove what is in quarantine; true, as nobody uses that."""
        remove(path)
        return True

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
                self.source_records.forget(folder.name)
        return alone

    def put_aside(self, image: StoredImage) -> Path | None:
        """Put an image that is not whole into quarantine; None when it is in use."""
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

    def is_intact(self, image: StoredImage) -> bool:
        """Whether the disk's bytes are those that were put in."""
        return file_digest(image.disk, "sha256") == image.disk_sha256

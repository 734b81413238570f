"""Record the last result of each URL in the store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mvpnet.images.store.transfers import key_of
from mvpnet.util.files import write_json


@dataclass(frozen=True)
class SourceRecord:
    """Last result of a URL. `file_bytes` and `file_mtime_ns` are those of a local file."""

    url: str
    sha256: str
    fetched_at: str
    file_bytes: int | None = None
    file_mtime_ns: int | None = None


class SourceRecords:
    """Folder `sources` of a store: one file per URL."""

    def __init__(self, store_root: Path) -> None:
        self._folder = store_root / "sources"

    def find(self, url: str) -> SourceRecord | None:
        """Return the last result of the URL. Its image may have been removed."""
        return _read(self._path(url))

    def all(self) -> list[SourceRecord]:
        return [record for path in sorted(self._folder.glob("*.json")) if (record := _read(path))]

    def remember(self, record: SourceRecord) -> None:
        """Write the record. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(record.url), asdict(record))

    def forget(self, sha256: str) -> None:
        """Remove the records of all URLs with this image."""
        for record in self.all():
            if record.sha256 == sha256:
                self._path(record.url).unlink(missing_ok=True)

    def _path(self, url: str) -> Path:
        return self._folder / f"{key_of(url)}.json"


def _read(path: Path) -> SourceRecord | None:
    try:
        return SourceRecord(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None

"""Read and write the lock file, mvpnet-images.lock, which pins URLs to digests.

It is kept beside an experiment and under version control. Vendors move their "latest" URLs; a job under a lock boots
the same image next year, or none. Secrets in URLs (`spec.urls.address`) are not written.

    {"version": 1,
     "images": {"https://…/latest.qcow2": {"sha256": "…", "size_bytes": 123, "locked_at": "2026-01-31T12:00:00+0000"}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mvpnet.errors import ConfigError, HostError
from mvpnet.spec.urls import address
from mvpnet.util.files import write_whole

LOCK_FILE = "mvpnet-images.lock"
SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = 1


@dataclass(frozen=True)
class Pin:
    """Pin of a URL: the digest and the size, in bytes, of the file as it is fetched."""

    sha256: str
    size_bytes: int | None = None
    locked_at: str | None = None  # ISO 8601


def read_lock(path: Path) -> dict[str, Pin]:
    """Return the pins by URL; none if the file does not exist. Raises ConfigError for an invalid lock file."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"image.lock_file: {path} is no ordinary file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"image.lock_file: {path} is no text in UTF-8, and no lock file") from error
    except OSError as error:
        raise ConfigError(f"image.lock_file: {path} cannot be read: {error.strerror}") from error
    try:
        whole = json.loads(text)
        if whole["version"] != _VERSION:
            raise ConfigError(f"image.lock_file: {path} is of version {whole['version']!r}, and {_VERSION} is known")
        pins = {address(url): Pin(**entry) for url, entry in whole["images"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"image.lock_file: {path} is no lock file: {type(error).__name__}: {error}",
            hint="mvpnet image lock writes one; remove this one first",
        ) from error
    for url, pin in pins.items():
        if not isinstance(pin.sha256, str) or not SHA256.fullmatch(pin.sha256):
            raise ConfigError(f"image.lock_file: {path}: {pin.sha256!r} of {url} is no SHA-256 digest")
    return pins


def write_lock(path: Path, pins: Mapping[str, Pin]) -> None:
    """Write the whole file, sorted by URL, so that a change gives a small diff. Raises HostError."""
    whole = {"version": _VERSION, "images": {url: asdict(pins[url]) for url in sorted(pins)}}
    try:
        write_whole(path, json.dumps(whole, indent=2) + "\n")
    except OSError as error:
        raise HostError(f"image.lock_file: {path} cannot be written: {error.strerror}") from error

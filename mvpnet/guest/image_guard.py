"""Detects images that changed while guests read from them.

An overlay depends on its source: if the source is truncated or written meanwhile, the guest reads corrupt data, and
qemu cannot detect it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mvpnet.cloudinit.seed_files import SEED_KEY
from mvpnet.guest.drives import DrivePlan
from mvpnet.spec.schema import ImageUse

_READ_IN_PLACE = (ImageUse.overlay, ImageUse.snapshot, ImageUse.readonly)

Mark = tuple[int, int]  # bytes, and mtime in ns


def stat_snapshot(drives: Iterable[DrivePlan]) -> dict[Path, Mark | None]:
    """Return size and time of each image that is read in place and not written by its own guest.

    Seeds made by mvpnet are excluded: they are in the scratch folder and are removed with the guest.
    """
    drives = (drive for drive in drives if drive.key != SEED_KEY)
    paths = (drive.source for drive in drives if drive.source and drive.use in _READ_IN_PLACE)
    return {path: _mark(path) for path in paths}


def changed(before: Mapping[Path, Mark | None]) -> list[str]:
    """Describe each changed image in a sentence."""
    return [text for path, mark in before.items() if (text := _change(path, mark, _mark(path)))]


def _change(path: Path, before: Mark | None, now: Mark | None) -> str | None:
    if before == now or before is None:
        return None
    if now is None:
        what = "is gone"
    elif now[0] != before[0]:
        what = f"has {now[0]} bytes and had {before[0]}"
    else:
        what = "was written"
    return f"the image {path} {what} since the guest started; what the guest read of it cannot be relied on"


def _mark(path: Path) -> Mark | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns

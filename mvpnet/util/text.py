"""Format counts, durations and sizes for people."""

from __future__ import annotations

import time
from collections.abc import Callable

#: prints a line for the user at the terminal
Say = Callable[[str], None]


def count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def and_more(number: int, before: str = " ", after: str = "") -> str:
    """Return ` and 3 more`, for items that a list leaves out; empty for none."""
    return f"{before}and {number} more{after}" if number > 0 else ""


def size_text(size_bytes: int) -> str:
    """Return a size as `512 MiB` or `1.5 GiB`."""
    number, unit = (size_bytes / 2**30, "GiB") if size_bytes >= 2**30 else (size_bytes / 2**20, "MiB")
    return f"{f'{number:.1f}'.removesuffix('.0')} {unit}"


def megabytes(size_bytes: int) -> str:
    """Return a size as `12 MB`, of a million bytes each."""
    return f"{size_bytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Return a duration as `42 s`, `12 min`, `3 h 05 min`, or `2 d 4 h`."""
    minutes = int(seconds) // 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes // 60 % 24} h"


def timestamp() -> str:
    """Return the current time, as 2026-01-31T12:00:00+0000 (ISO 8601)."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

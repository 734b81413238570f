"""qemu's option strings, "value,name=value,…": a comma inside a value is doubled (qemu(1), "-drive" and "-netdev")."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def escaped(value: str | Path) -> str:
    """A value as it is written inside an option string."""
    return str(value).replace(",", ",,")


def split(text: str) -> list[str]:
    """The parts of an option string, each with its doubled commas made single again."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def joined(parts: Iterable[str]) -> str:
    """An option string of parts, none of which is escaped yet. A part after the first must not begin with a comma."""
    return ",".join(escaped(part) for part in parts)

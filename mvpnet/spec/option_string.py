"""Parse and write qemu's option strings, "value,name=value,…".

A comma inside a value is doubled (qemu(1), "-drive" and "-netdev").
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def escaped(value: str | Path) -> str:
    """Return a value with its commas doubled, for an option string."""
    return str(value).replace(",", ",,")


def split(text: str) -> list[str]:
    """Split an option string into its parts, with their doubled commas made single."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def joined(parts: Iterable[str]) -> str:
    """Join unescaped parts to an option string. A part after the first must not begin with a comma."""
    return ",".join(escaped(part) for part in parts)

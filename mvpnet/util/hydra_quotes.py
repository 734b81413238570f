r"""Quotes of Hydra's grammar (hydra.cc, "The Override Grammar"), in which a backslash escapes quotes alone."""

from __future__ import annotations

import re


def quoted(text: str) -> str:
    """Return a text in quotes; in double ones, where it has none, as a shell's word has single ones around it."""
    mark = "'" if '"' in text and "'" not in text else '"'
    inner = re.sub(rf"(\\*){mark}", rf"\1\1\\{mark}", text)
    return mark + re.sub(r"(\\+)$", r"\1\1", inner) + mark


def without_quotes(value: str) -> str:
    """Return the text of a value that stands in quotes; any other value as it is."""
    if len(value) < 2 or value[0] not in ("'", '"') or value[-1] != value[0]:
        return value
    inner = re.sub(rf"(\\*)\\{value[0]}", lambda found: _halved(found[1]) + value[0], value[1:-1])
    return re.sub(r"\\+$", lambda found: _halved(found[0]), inner)


def _halved(backslashes: str) -> str:
    return "\\" * (len(backslashes) // 2)

"""Escape text that is resolved already, so that it is not resolved again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def as_hydra_value(text: str) -> str:
    """Return a text in quotes, such that Hydra reads this very text as the value of an override.

    A backslash has a meaning before a quote only (Hydra's documentation, "Extended Override syntax").
    """

    def escape(found: re.Match[str]) -> str:
        return found[1] * 2 + ("\\'" if found[2] else "")

    quoted = re.sub(r"(\\*)('|\Z)", escape, resolved_already(text))
    return f"'{quoted}'"


def resolved_already(value: Any) -> Any:
    """Return the value with every ${…} escaped, to be put into a config again."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, Mapping):
        return {key: resolved_already(item) for key, item in value.items()}
    return [resolved_already(item) for item in value] if isinstance(value, list) else value

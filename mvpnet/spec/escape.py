"""Escape text that is resolved already, so that it is not resolved again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def resolved_already(value: Any) -> Any:
    """Return the value with every ${…} escaped, to be put into a config again."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, Mapping):
        return {key: resolved_already(item) for key, item in value.items()}
    return [resolved_already(item) for item in value] if isinstance(value, list) else value

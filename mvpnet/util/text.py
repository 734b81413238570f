"""Words for people: counts, durations, sizes."""

from __future__ import annotations

import time
from collections.abc import Callable

#: takes a line for the person at the terminal
Say = Callable[[str], None]


def count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

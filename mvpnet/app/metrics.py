"""Metrics: numbers with names, which an app prints as lines `metric NAME VALUE` or writes into a metrics.json."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from mvpnet.errors import AppError

_LINE = b"metric "
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]*")


class Metrics:
    """What was measured so far, and what of it could not be read. The last value of a name is kept."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def take_line(self, line: bytes, suffix: str = "") -> str | None:
        """Take a line of an app's output, if it is a metric; what is wrong with it, if anything is.

        `suffix` goes behind the name: it tells guests apart.
        """
        if not line.startswith(_LINE):
            return None
        words = line[len(_LINE) :].decode(errors="replace").split()
        if len(words) != 2 or not _NAME.fullmatch(words[0]):
            return f"{_short(line)}: is no line `metric NAME VALUE`; not taken as a metric"
        value = _number(words[1])
        if value is None:
            return f"{_short(line)}: {words[1]!r} is not a number; not taken as a metric"
        self.values[words[0] + suffix] = value
        return None

    def take_file(self, path: Path, suffix: str = "") -> None:
        """Take a metrics.json: one object, each value a number.

        Raises AppError when it is no such thing; what in it is a number is taken all the same.
        """
        try:
            whole = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise AppError(f"{path}: cannot be read as JSON: {error}") from None
        if not isinstance(whole, dict):
            raise AppError(f"{path}: is no JSON object of names and numbers")
        wrong = []
        for name, value in whole.items():
            if not is_number(value):
                wrong.append(f"{name} is {json.dumps(value)[:60]}")
            elif not _NAME.fullmatch(name):
                wrong.append(f"{name!r} is no name")
            else:
                self.values[name + suffix] = value
        if wrong:
            raise AppError(f"{path}: a metric is a name and a finite number, and {', '.join(wrong)}")


def _number(text: str) -> float | None:
    for read in (int, float):
        try:
            value = read(text)
        except ValueError:
            continue
        return value if is_number(value) else None
    return None


def is_number(value: object) -> bool:
    """Whether it can be a metric: a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= 80 else text[:80] + "…")

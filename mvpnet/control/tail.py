"""Output of growing log files, of one rank or of several side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

_LOOK_EVERY_S: Final = 0.3
_BLOCK_BYTES: Final = 64 * 1024


class Tail:
    """Reads one file: its last lines first, then what is added. The file may be created later."""

    def __init__(self, path: Path, prefix: bytes) -> None:
        self._path = path
        self._prefix = prefix
        self._at = 0
        self._unfinished = b""

    def last(self, lines: int) -> bytes:
        """Return the file's last lines; call it once, before `added`."""
        data = self._read()
        kept = data.splitlines(keepends=True)[-lines:] if lines else []
        return self._shown(b"".join(kept))

    def added(self) -> bytes:
        """Return what was added since the last call; with a prefix, only whole lines."""
        return self._shown(self._read())

    def rest(self) -> bytes:
        """Return the last line if it has no newline."""
        unfinished, self._unfinished = self._unfinished, b""
        return self._prefix + unfinished + b"\n" if unfinished else b""

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return b""
        self._at += len(data)
        return data

    def _shown(self, data: bytes) -> bytes:
        if not self._prefix:
            return data
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        return b"".join(self._prefix + line + b"\n" for line in lines)


def show(
    files: Mapping[str, Path], lines: int, put: Callable[[bytes], object], go_on: Callable[[], bool] | None
) -> None:
    """Show the last lines of files, then optionally what is added to them.

    Args:
        files: The files by name. With several files, each line is prefixed with the name.
        lines: How many last lines to show.
        put: Called with the output.
        go_on: Called before each read of additions; when it returns False, that read is the last. Without it,
            additions are not shown.
    """
    tails = [Tail(path, f"{name} | ".encode() if len(files) > 1 else b"") for name, path in files.items()]
    for tail in tails:
        put(tail.last(lines))
    while go_on and (goes_on := go_on()) is not None:
        for tail in tails:
            if data := tail.added():
                put(data)
        if not goes_on:
            break
        time.sleep(_LOOK_EVERY_S)
    for tail in tails:
        put(tail.rest())

"""Log files as they grow, of one rank or of several side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

_LOOK_EVERY_S: Final = 0.3
_BLOCK_BYTES: Final = 64 * 1024


class Tail:
    """What one file has to show: its last lines first, then what is added. It may come into being later."""

    def __init__(self, path: Path, prefix: bytes) -> None:
        self._path = path
        self._prefix = prefix
        self._at = 0
        self._unfinished = b""

    def last(self, lines: int) -> bytes:
        """Its last lines; from here on `added`."""
        data = self._read()
        kept = data.splitlines(keepends=True)[-lines:] if lines else []
        return self._shown(b"".join(kept))

    def added(self) -> bytes:
        """What has come since; with a prefix whole lines only."""
        return self._shown(self._read())

    def rest(self) -> bytes:
        """A last line that has no end."""
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
    """Show the last lines of some files, by name, and with `go_on` what is added, until it says no.

    Several files are told apart by their names before each line.
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
